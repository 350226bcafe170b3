/* MQTT 3.1.1, §4.3 and §4.4: how messages of QoS 0, 1 and 2 get over one hop whose sessions are kept.
 *
 * A hop is a sender and a receiver: a client and a server, or a server and a client; the standard's rules are the same.
 * They share a connection that may break. What is on it then arrives up to any place and no further, each end notices
 * when it does, and a new connection takes up the session: what is not acknowledged is sent again.
 *
 *     spin -a delivery.pml && cc -O2 -o pan pan.c && ./pan -m100000          all states: no error
 *     cc -O2 -DPRINTF -DNOREDUCE -o pan pan.c && ./pan -m100000              and every step between them, printed
 *
 * Bounds: two messages of QoS Q0 and Q1, at most WINDOW unacknowledged, LOSSES connections broken.
 */
#ifndef Q0
#define Q0 1
#define Q1 2
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#define N 2
#define WINDOW 2
#define PLACES 6                 /* that a direction of the connection has; never too few, which is asserted */

#define QOS(m) ((m) == 0 -> Q0 : Q1)

/* A message at its sender. */
#define NEW 0                    /* not handed over by its program yet */
#define WAITING 1
#define PUBLISHED 2              /* QoS 1 and 2: sent, to be sent again */
#define RELEASED 3               /* QoS 2: its PUBREC is here, the PUBREL to be sent again */
#define DONE 4

/* A message of QoS 2 at its receiver. */
#define UNKNOWN 0
#define HELD 1                   /* here, and not taken by the program yet */
#define TAKEN 2                  /* taken; its identifier is kept until the PUBREL comes */

/* Packets. */
#define PUBLISH 1
#define PUBACK 2
#define PUBREC 3
#define PUBREL 4
#define PUBCOMP 5

byte phase[N];
byte held[N];
bool owed[N];                    /* QoS 2: whether taking it is to be answered on this connection */
byte seen[N];                    /* how often the program has taken it */

byte inbox[PLACES]; byte waiting_here;                          /* what the program has still to take */
bool fresh[PLACES];                                             /* QoS 1: whether that is to be answered likewise */
byte up[PLACES]; byte up_of[PLACES]; byte ups;                  /* to the receiver */
byte down[PLACES]; byte down_of[PLACES]; byte downs;            /* to the sender */

bool sender_on = true;           /* whether this end has a connection that is open for messages */
bool receiver_on = true;
bool receiver_new;               /* whether the receiver's is a new one, which the sender has still to take up */
bool broken;                     /* nothing that is sent gets on the connection any more */
byte losses = LOSSES;
byte i, j;

/* The states as lines, which refinement.py reads to check that runs of the code are runs of this. */
#define SHOW(mark) printf("%c %d%d %d%d%d%d %d%d n%d:%d%d.%d%d.%d%d.%d%d u%d:%d%d.%d%d.%d%d.%d%d d%d:%d%d.%d%d.%d%d.%d%d %d%d%d%d %d\n", \
    mark, phase[0], phase[1], held[0], held[1], owed[0], owed[1], seen[0], seen[1], \
    waiting_here, inbox[0], fresh[0], inbox[1], fresh[1], inbox[2], fresh[2], inbox[3], fresh[3], \
    ups, up[0], up_of[0], up[1], up_of[1], up[2], up_of[2], up[3], up_of[3], \
    downs, down[0], down_of[0], down[1], down_of[1], down[2], down_of[2], down[3], down_of[3], \
    sender_on, receiver_on, receiver_new, broken, losses)

inline to_receiver(kind, m) {
    if
    :: !broken -> assert(ups < PLACES); up[ups] = kind; up_of[ups] = m; ups++
    :: else
    fi
}
inline to_sender(kind, m) {
    if
    :: !broken -> assert(downs < PLACES); down[downs] = kind; down_of[downs] = m; downs++
    :: else
    fi
}
inline shift_up() {
    i = 1;
    do
    :: i < PLACES -> up[i - 1] = up[i]; up_of[i - 1] = up_of[i]; i++
    :: else -> break
    od;
    up[PLACES - 1] = 0; up_of[PLACES - 1] = 0; ups--; i = 0
}
inline shift_down() {
    i = 1;
    do
    :: i < PLACES -> down[i - 1] = down[i]; down_of[i - 1] = down_of[i]; i++
    :: else -> break
    od;
    down[PLACES - 1] = 0; down_of[PLACES - 1] = 0; downs--; i = 0
}
inline drop_up() { ups--; up[ups] = 0; up_of[ups] = 0 }
inline drop_down() { downs--; down[downs] = 0; down_of[downs] = 0 }
inline into_inbox(m) {
    assert(waiting_here < PLACES); inbox[waiting_here] = m; fresh[waiting_here] = (QOS(m) == 1); waiting_here++
}

#define FLYING(m) ((phase[m] == PUBLISHED || phase[m] == RELEASED) -> 1 : 0)
#define FIRST_WAITING (phase[0] == WAITING -> 0 : (phase[1] == WAITING -> 1 : N))
#define ALL_DONE (phase[0] == DONE && phase[1] == DONE && waiting_here == 0 && ups == 0 && downs == 0)

active proctype hop() {
    byte m;
    do
    /* The sender. */
    :: d_step { phase[0] == NEW || phase[1] == NEW ->                                   SHOW('<');
         m = (phase[0] == NEW -> 0 : 1);                       /* in the order of publishing */
         phase[m] = WAITING; m = 0;                            printf("= submit\n"); SHOW('>') }
    :: d_step { sender_on && FIRST_WAITING < N && (QOS(FIRST_WAITING) == 0 || FLYING(0) + FLYING(1) < WINDOW) -> SHOW('<');
         m = FIRST_WAITING;
         if :: QOS(m) == 0 -> phase[m] = DONE :: else -> phase[m] = PUBLISHED fi;
         to_receiver(PUBLISH, m); m = 0;                       printf("= send\n"); SHOW('>') }
    :: d_step { sender_on && downs > 0 ->                                               SHOW('<');
         m = down_of[0];
         if
         :: down[0] == PUBACK && phase[m] == PUBLISHED -> phase[m] = DONE
         :: down[0] == PUBREC && phase[m] == PUBLISHED -> phase[m] = RELEASED; to_receiver(PUBREL, m)
         :: down[0] == PUBREC && phase[m] != PUBLISHED -> to_receiver(PUBREL, m)
         :: down[0] == PUBCOMP && phase[m] == RELEASED -> phase[m] = DONE
         :: else                                               /* an answer to what is done already */
         fi;
         shift_down(); m = 0;                                  printf("= answered\n"); SHOW('>') }

    /* The receiver, and its program. */
    :: d_step { receiver_on && ups > 0 ->                                               SHOW('<');
         m = up_of[0];
         if
         :: up[0] == PUBLISH && QOS(m) < 2 -> into_inbox(m)
         :: up[0] == PUBLISH && QOS(m) == 2 && held[m] == UNKNOWN -> held[m] = HELD; owed[m] = true; into_inbox(m)
         :: up[0] == PUBLISH && QOS(m) == 2 && held[m] == HELD -> owed[m] = true
         :: up[0] == PUBLISH && QOS(m) == 2 && held[m] == TAKEN -> to_sender(PUBREC, m)
         :: up[0] == PUBREL -> held[m] = UNKNOWN; to_sender(PUBCOMP, m)
         fi;
         shift_up(); m = 0;                                    printf("= receive\n"); SHOW('>') }
    :: d_step { waiting_here > 0 ->                                                     SHOW('<');
         m = inbox[0];
         seen[m] = (seen[m] < 3 -> seen[m] + 1 : 3);
         assert(QOS(m) == 1 || seen[m] == 1);                                           /* QoS 0 and 2: no copy */
         assert(m == 1 || seen[1] == 0 || Q0 != Q1 || seen[0] > 1);                     /* first copies in order */
         if
         :: QOS(m) == 1 && fresh[0] && receiver_on -> to_sender(PUBACK, m)
         :: QOS(m) == 2 ->
              held[m] = TAKEN;
              if :: owed[m] && receiver_on -> to_sender(PUBREC, m) :: else fi;
              owed[m] = false
         :: else
         fi;
         i = 1;
         do
         :: i < PLACES -> inbox[i - 1] = inbox[i]; fresh[i - 1] = fresh[i]; i++
         :: else -> break
         od;
         inbox[PLACES - 1] = 0; fresh[PLACES - 1] = false; waiting_here--; i = 0; m = 0;  printf("= take\n"); SHOW('>') }

    /* The connection: it breaks, what is on it is lost from the end, each side notices, and takes up a new one. */
    :: d_step { losses > 0 && !broken ->                       SHOW('<'); losses--; broken = true; printf("= break\n"); SHOW('>') }
    :: d_step { broken && ups > 0 ->                           SHOW('<'); drop_up(); printf("= lose\n"); SHOW('>') }
    :: d_step { broken && downs > 0 ->                         SHOW('<'); drop_down(); printf("= lose\n"); SHOW('>') }
    :: d_step { broken && sender_on && downs == 0 ->           SHOW('<'); sender_on = false; printf("= sender off\n"); SHOW('>') }
    :: d_step { broken && receiver_on && ups == 0 ->           SHOW('<');
         receiver_on = false; receiver_new = false;
         i = 0; do :: i < PLACES -> fresh[i] = false; i++ :: else -> break od; i = 0;   /* no answer any more */
         owed[0] = false; owed[1] = false;                     printf("= receiver off\n"); SHOW('>') }
    :: d_step { !receiver_on ->                                SHOW('<');
         receiver_on = true; receiver_new = broken;            printf("= receiver on\n"); SHOW('>') }
    :: d_step { !sender_on && ups == 0 && downs == 0 && (!receiver_on || receiver_new) -> SHOW('<');
         sender_on = true; broken = false; receiver_new = false;
         i = 0;                                                /* PUBRELs in the order of the PUBRECs, then PUBLISHs */
         do :: i < N -> if :: phase[i] == RELEASED -> to_receiver(PUBREL, i) :: else fi; i++ :: else -> break od;
         i = 0;
         do :: i < N -> if :: phase[i] == PUBLISHED -> to_receiver(PUBLISH, i) :: else fi; i++ :: else -> break od;
         i = 0;                                                printf("= sender on\n"); SHOW('>') }

    :: ALL_DONE && sender_on && receiver_on && !broken ->
         assert(held[0] == UNKNOWN && held[1] == UNKNOWN);
         assert(Q0 == 0 || seen[0] > 0);                                                /* QoS 1 and 2: at least once */
         assert(Q1 == 0 || seen[1] > 0);
         break
    od
}
