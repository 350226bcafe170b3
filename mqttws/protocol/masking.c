/* The module `mqttws.protocol.masking` of the compiled build: the functions of masking.py, which is the reference, in C.
 *
 * The loops are separate functions with few variables, so that compilers turn them into vector instructions. The lock
 * of the interpreter is kept: a long payload comes in pieces of 64 KiB, and these take a few microseconds each.
 *
 * Spec: RFC 6455 section 5.3
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { KEY = 4, WORD = 8 };

/* Words are copied, not accessed by a cast pointer, because a payload need not be aligned. */
static void mask_bytes(char *__restrict to, const char *__restrict from, Py_ssize_t size, const char *key)
{
    uint64_t word, keys;
    Py_ssize_t at, words = size / WORD;

    memcpy(&keys, key, KEY);
    memcpy((char *)&keys + KEY, key, KEY);
    for (at = 0; at < words; at++) {
        memcpy(&word, from + at * WORD, WORD);
        word ^= keys;
        memcpy(to + at * WORD, &word, WORD);
    }
    for (at = words * WORD; at < size; at++)
        to[at] = from[at] ^ key[at % KEY];
}

static void xor_bytes(char *__restrict to, const char *__restrict one, const char *__restrict other, Py_ssize_t size)
{
    for (Py_ssize_t at = 0; at < size; at++)
        to[at] = one[at] ^ other[at];
}

/* Get the buffers of two arguments. Return 0, or -1 with an exception set and no buffer held. */
static int get_buffers(PyObject *const *args, Py_ssize_t count, Py_buffer *one, Py_buffer *other)
{
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "2 arguments are required, not %zd", count);
        return -1;
    }
    if (PyObject_GetBuffer(args[0], one, PyBUF_SIMPLE) < 0)
        return -1;
    if (PyObject_GetBuffer(args[1], other, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(one);
        return -1;
    }
    return 0;
}

static PyObject *mask(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer payload, key, before = {0}; /* without an object, releasing it does nothing */
    PyObject *masked = NULL;

    if (get_buffers(args, count == 3 ? 2 : count, &payload, &key) < 0)
        return NULL;
    if (count == 3 && PyObject_GetBuffer(args[2], &before, PyBUF_SIMPLE) < 0)
        before.obj = NULL;
    else if (key.len != KEY)
        PyErr_Format(PyExc_ValueError, "a masking key has 4 bytes, not %zd", key.len);
    else if ((masked = PyBytes_FromStringAndSize(NULL, before.len + payload.len)) != NULL) {
        if (before.len)
            memcpy(PyBytes_AS_STRING(masked), before.buf, before.len);
        mask_bytes(PyBytes_AS_STRING(masked) + before.len, payload.buf, payload.len, key.buf);
    }
    PyBuffer_Release(&payload);
    PyBuffer_Release(&key);
    PyBuffer_Release(&before);
    return masked;
}

static PyObject *xor(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer one, other;
    PyObject *combined = NULL;

    if (get_buffers(args, count, &one, &other) < 0)
        return NULL;
    if (one.len != other.len)
        PyErr_Format(PyExc_ValueError, "%zd bytes cannot be combined with %zd", one.len, other.len);
    else if ((combined = PyBytes_FromStringAndSize(NULL, one.len)) != NULL)
        xor_bytes(PyBytes_AS_STRING(combined), one.buf, other.buf, one.len);
    PyBuffer_Release(&one);
    PyBuffer_Release(&other);
    return combined;
}

static PyMethodDef functions[] = {
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL, 
     "mask(payload, key, before=b\"\", /)\n--\n\nMask or unmask a payload."},
    {"xor", (PyCFunction)(void (*)(void))xor, METH_FASTCALL, "xor(data, keys, /)\n--\n\nXOR two byte strings."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "mqttws.protocol.masking",
    .m_doc = "Masking of WebSocket payloads, in C.",
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit_masking(void)
{
    return PyModuleDef_Init(&definition);
}
