/* The search of `survey.py`: every state, packed into one integer, breadth first.

   What follows from a state is in tables, by some fields of the state (see edges.py). A row that is missing is asked
   for once. A state costs 8 bytes in the order in which states were found, and some 12 in the set of those known: the
   state plus one, so that 0 is free, and in the other bits how many edges without a fault lead to it. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PARTS 256
#define AHEAD 4 /* states whose rows are fetched while others are expanded */

enum { COMPLETE, BROKEN, STOPPED, MEMORY, TOO_MANY };

/* Rows by (tag, fields of the state): a tag is a group of rows, or something that is sent to a client. */
typedef struct {
    uint64_t key;
    int64_t value;
    uint32_t tag; /* 0: free */
} Entry;

typedef struct {
    uint64_t *slots;
    uint64_t size, used;
} Part;

/* The end of an edge, and whether the edge is without a fault. */
typedef struct {
    uint64_t state;
    int fair;
} End;

typedef int (*Ask)(uint32_t tag, uint64_t state);

typedef struct {
    Entry *entries;
    uint64_t size, used;
    int64_t *pool; /* a row: 4 counts; differences without and with sending; the same of faults */
    uint64_t pool_size, pool_used;
    uint32_t groups[64][16]; /* by faults left; ended by 0 */
    uint64_t masks[64 * 16];
    uint64_t *push_masks;
    uint64_t pushes;
    int shift; /* of the faults left */
    uint64_t state_mask;
    Part known[PARTS];
    uint64_t *order;
    uint64_t order_size, count;
    End *ends; /* of the edges of the state that is expanded */
    uint64_t found, found_size;
    uint64_t most;
    double until;
    Ask ask;
    uint64_t edges, rests, depth, longest;
} Search;

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 29;
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 32;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static uint64_t place_of(uint64_t size, uint32_t tag, uint64_t key) {
    return mix(key + tag * 0x9e3779b97f4a7c15u) & (size - 1);
}

static Entry *find(Entry *entries, uint64_t size, uint32_t tag, uint64_t key) {
    uint64_t place = place_of(size, tag, key);
    while (entries[place].tag && (entries[place].key != key || entries[place].tag != tag)) place = (place + 1) & (size - 1);
    return entries + place;
}

/* Remember a value. */
void put(Search *s, uint32_t tag, uint64_t key, int64_t value) {
    if (s->used * 2 >= s->size) {
        uint64_t size = s->size * 2;
        Entry *entries = calloc(size, sizeof *entries);
        for (uint64_t i = 0; i < s->size; i++)
            if (s->entries[i].tag) *find(entries, size, s->entries[i].tag, s->entries[i].key) = s->entries[i];
        free(s->entries);
        s->entries = entries;
        s->size = size;
    }
    *find(s->entries, s->size, tag, key) = (Entry){key, value, tag};
    s->used++;
}

/* Remember a row. */
void put_row(Search *s, uint32_t tag, uint64_t key, const int64_t *row, uint64_t length) {
    if (s->pool_used + length > s->pool_size) {
        s->pool_size = s->pool_size * 2 + length + 1024;
        s->pool = realloc(s->pool, s->pool_size * sizeof *s->pool);
    }
    memcpy(s->pool + s->pool_used, row, length * sizeof *row);
    put(s, tag, key, (int64_t)s->pool_used);
    s->pool_used += length;
}

/* Say that a row will be looked up soon: a table that no cache holds takes longer to answer than to search. */
static void expect_rows(const Search *s, uint64_t state) {
    for (const uint32_t *group = s->groups[state >> s->shift]; *group; group++)
        __builtin_prefetch(s->entries + place_of(s->size, *group, state & s->masks[*group]));
}

/* Look up a value; ask for it if it is missing. Return whether it is there. */
static int look_up(Search *s, uint32_t tag, uint64_t key, uint64_t state, int64_t *value) {
    Entry *entry = find(s->entries, s->size, tag, key);
    if (!entry->tag) {
        if (s->ask(tag, state)) return 0;
        entry = find(s->entries, s->size, tag, key);
    }
    *value = entry->value;
    return 1;
}

static uint64_t begin_of(const Part *part, uint64_t hash) {
    return (uint64_t)(((unsigned __int128)(hash << 8) * part->size) >> 64);
}

static uint64_t *slot_of(const Search *s, Part *part, uint64_t state, uint64_t hash) {
    uint64_t place = begin_of(part, hash);
    while (part->slots[place] && (part->slots[place] & s->state_mask) != state + 1)
        if (++place == part->size) place = 0;
    return part->slots + place;
}

static int grow(const Search *s, Part *part) {
    Part larger = {NULL, part->size + part->size / 2 + 64, part->used};
    larger.slots = calloc(larger.size, sizeof *larger.slots);
    if (!larger.slots) return 0;
    for (uint64_t i = 0; i < part->size; i++)
        if (part->slots[i]) {
            uint64_t state = (part->slots[i] & s->state_mask) - 1;
            *slot_of(s, &larger, state, mix(state)) = part->slots[i];
        }
    free(part->slots);
    *part = larger;
    return 1;
}

/* Reach a state; `fair` is whether by an edge without a fault. Return 0, or what is out: memory or bits. */
static int reach(Search *s, uint64_t state, int fair) {
    uint64_t hash = mix(state);
    Part *part = s->known + (hash >> 56);
    if (part->used * 20 >= part->size * 17 && !grow(s, part)) return MEMORY;
    uint64_t *slot = slot_of(s, part, state, hash);
    if (!*slot) {
        *slot = state + 1;
        part->used++;
        if (s->count == s->order_size) {
            uint64_t size = s->order_size + s->order_size / 4 + 1024;
            uint64_t *order = realloc(s->order, size * sizeof *order);
            if (!order) return MEMORY;
            s->order = order;
            s->order_size = size;
        }
        s->order[s->count++] = state;
    }
    if (fair) *slot += s->state_mask + 1;
    return fair && *slot <= s->state_mask ? TOO_MANY : 0;
}

/* The slot of a state that is known. */
static uint64_t *known(Search *s, uint64_t state) {
    uint64_t hash = mix(state);
    return slot_of(s, s->known + (hash >> 56), state, hash);
}

/* Note an edge, which `expand` follows when it has found all of them: until then, the slot of its end is on its way
   from the memory. */
static void edge(Search *s, uint64_t state, int fair) {
    if (s->found == s->found_size) {
        s->found_size = s->found_size * 2 + 64;
        s->ends = realloc(s->ends, s->found_size * sizeof *s->ends);
    }
    s->ends[s->found++] = (End){state, fair};
    uint64_t hash = mix(state);
    const Part *part = s->known + (hash >> 56);
    __builtin_prefetch(part->slots + begin_of(part, hash), 1);
}

/* Expand a state. `follow` is called for each edge; faults only where they are asked for. Return how many edges without
   a fault there are, or a negative number: what stopped it. */
typedef int (*Follow)(Search *s, uint64_t state, int fair);

static int expand(Search *s, uint64_t state, Follow follow, int with_faults) {
    const uint32_t *group = s->groups[state >> s->shift];
    int fair = 0, stopped;
    s->found = 0;
    for (; *group; group++) {
        int64_t row;
        uint64_t key = state & s->masks[*group];
        if (!look_up(s, *group, key, state, &row)) return -BROKEN;
        const uint64_t start = (uint64_t)row;
        uint64_t at = start + 4;
        for (int kind = 0; kind < (with_faults ? 2 : 1); kind++) {
            uint64_t plain = s->pool[start + 2 * kind], sending = s->pool[start + 2 * kind + 1];
            for (uint64_t i = 0; i < plain; i++) edge(s, state + (uint64_t)s->pool[at++], !kind);
            for (uint64_t i = 0; i < sending; i++) {
                uint64_t after = state + (uint64_t)s->pool[at++];
                uint64_t sent = s->pool[at++];
                while (sent--) {
                    uint32_t tag = (uint32_t)s->pool[at++];
                    int64_t change;
                    if (!look_up(s, tag, state & s->push_masks[tag], state, &change)) return -BROKEN;
                    after += (uint64_t)change;
                }
                edge(s, after, !kind);
            }
            s->edges += plain + sending;
            if (!kind) fair += plain + sending;
        }
    }
    for (uint64_t i = 0; i < s->found; i++)
        if ((stopped = follow(s, s->ends[i].state, s->ends[i].fair))) return -stopped;
    return fair;
}

/* Explore from the states in `order`. */
int search(Search *s) {
    uint64_t level = s->count;
    for (uint64_t i = 0; i < s->count; i++) {
        if (i == level) {
            s->depth++;
            level = s->count;
        }
        if (i + AHEAD < s->count) expect_rows(s, s->order[i + AHEAD]);
        int fair = expand(s, s->order[i], reach, 1);
        if (fair > 0) {
            if (s->most && s->count >= s->most) return STOPPED;
            if (!(i & 0xffff) && s->until && now() > s->until) return STOPPED;
            continue;
        }
        if (fair < 0) return -fair;
        s->rests++;
        if (s->ask(0, s->order[i])) return BROKEN;
    }
    return COMPLETE;
}

/* Begin with a state. */
int begin(Search *s, uint64_t state) { return reach(s, state, 0); }

static uint64_t *upcoming;
static uint64_t upcoming_size, upcoming_used;

static int drop(Search *s, uint64_t state, int fair) {
    (void)fair;
    if ((*known(s, state) -= s->state_mask + 1) > s->state_mask) return 0;
    if (upcoming_used == upcoming_size) {
        upcoming_size = upcoming_size * 2 + 1024;
        uint64_t *larger = realloc(upcoming, upcoming_size * sizeof *larger);
        if (!larger) return MEMORY;
        upcoming = larger;
    }
    upcoming[upcoming_used++] = state;
    return 0;
}

/* Take away every state that nothing leads to any more, again and again. What is left goes round in circles. */
int circles(Search *s) {
    uint64_t edges = s->edges, gone = 0, ready_used = 0;
    uint64_t *ready = NULL;
    for (uint64_t i = 0; i < s->count; i++) {
        if (*known(s, s->order[i]) > s->state_mask) continue;
        if (!(ready_used & (ready_used - 1))) ready = realloc(ready, (ready_used * 2 + 1) * sizeof *ready);
        if (!ready) return MEMORY;
        ready[ready_used++] = s->order[i];
    }
    while (ready_used) {
        s->longest++;
        gone += ready_used;
        upcoming = NULL;
        upcoming_size = upcoming_used = 0;
        for (uint64_t i = 0; i < ready_used; i++) {
            if (i + AHEAD < ready_used) expect_rows(s, ready[i + AHEAD]);
            if (expand(s, ready[i], drop, 0) < 0) return MEMORY;
        }
        free(ready);
        ready = upcoming;
        ready_used = upcoming_used;
    }
    free(ready);
    s->longest--;
    s->edges = edges;
    if (gone == s->count) return COMPLETE;
    return BROKEN;
}

Search *make(int shift, int bits, uint64_t most, double seconds, Ask ask) {
    Search *s = calloc(1, sizeof *s);
    s->shift = shift;
    s->state_mask = ((uint64_t)1 << bits) - 1;
    s->most = most;
    s->until = seconds > 0 ? now() + seconds : 0;
    s->ask = ask;
    s->size = 1 << 16;
    s->entries = calloc(s->size, sizeof *s->entries);
    for (int i = 0; i < PARTS; i++) grow(s, s->known + i);
    return s;
}

void set_group(Search *s, int budget, int place, uint32_t tag, uint64_t mask) {
    s->groups[budget][place] = tag;
    s->masks[tag] = mask;
}

void set_push(Search *s, uint32_t tag, uint64_t mask) {
    if (tag >= s->pushes) {
        uint64_t pushes = tag * 2 + 1024;
        s->push_masks = realloc(s->push_masks, pushes * sizeof *s->push_masks);
        s->pushes = pushes;
    }
    s->push_masks[tag] = mask;
}

void figures(Search *s, uint64_t *found) {
    const uint64_t all[] = {s->count, s->edges, s->rests, s->depth, s->longest};
    memcpy(found, all, sizeof all);
}

void end(Search *s) {
    for (int i = 0; i < PARTS; i++) free(s->known[i].slots);
    free(s->entries);
    free(s->pool);
    free(s->push_masks);
    free(s->order);
    free(s->ends);
    free(s);
}
