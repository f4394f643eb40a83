/* A server of phi^4 for dmmc.interop.process: the fields come through shared memory; see own_action_process.py.

       cc -O2 -ffp-contract=off -o phi4_server own_action_server.c
       phi4_server KAPPA LAM FILE BYTES          (dmmc adds the last two)

   Of an MPI program rank 0 does what main() does here. It hands each request on (MPI_Bcast) and distributes the fields
   (MPI_Scatterv); every rank computes its share; and rank 0 collects the results (MPI_Gatherv) before it answers. */

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "own_action.c"

#define MAX_DIM 4

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

/* Look for input for a moment before read() sleeps, since it takes tens of microseconds to be woken up. Sleep in the next
   256 waits if other processes want the core, and in the next 1, 3, 7, ... if the input takes longer time and again.
   A server need not do this; it saves time where a request takes less than a millisecond. */
static void wait_awake(void) {
    static int rest = 0, late = 0;
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    double began = seconds(), before, now = began;
    int ready = 0;
    if (rest) {
        rest--;
        return;
    }
    while (!ready && !rest) {
        ready = poll(&input, 1, 0);
        before = now;
        now = seconds();
        if (now - before > 1e-4)
            rest = 256;
        else if (ready)
            late = 0;
        else if (now - began > 1e-3)
            rest = late = late < 128 ? 2 * late + 1 : 256;
    }
}

/* The next line of the standard input, or NULL at its end. */
static char *next_line(void) {
    static char buffer[1024];
    static size_t filled = 0, used = 0;
    char *end;
    memmove(buffer, buffer + used, filled -= used);
    while (!(end = memchr(buffer, '\n', filled))) {
        wait_awake();
        ssize_t more = read(STDIN_FILENO, buffer + filled, sizeof buffer - filled);
        if (more <= 0) return NULL;
        filled += more;
    }
    *end = 0;
    used = end + 1 - buffer;
    return buffer;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: phi4_server KAPPA LAM FILE BYTES\n");
        return 2;
    }
    double parameters[] = {atof(argv[1]), atof(argv[2])};
    size_t bytes = strtoull(argv[4], NULL, 10);
    int file = open(argv[3], O_RDWR);
    double *phi = file < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (phi == MAP_FAILED) {
        perror(argv[3]);
        return 1;
    }
    double *out = phi + bytes / 16; /* the second half */
    puts("dmmc-action 1");
    fflush(stdout);

    char *line;
    while ((line = next_line())) { /* what, number of the request, first field, n, shape */
        char *next = strchr(line, ' ');
        if (!next) {
            puts("error a request that is none");
            return 1;
        }
        *next++ = 0;
        long number = strtol(next, &next, 10);
        int64_t first = strtoll(next, &next, 10), n = strtoll(next, &next, 10), shape[MAX_DIM], dim = 0;
        while (*next == ' ' && dim < MAX_DIM) shape[dim++] = strtoll(next, &next, 10);
        int64_t begin = first * sites(dim, shape);
        if (!strcmp(line, "S"))
            phi4_action(phi + begin, n, dim, shape, parameters, out + first);
        else if (!strcmp(line, "grad"))
            phi4_grad(phi + begin, n, dim, shape, parameters, out + begin);
        else {
            printf("error no request is called %s\n", line);
            return 1;
        }
        printf("%ld\n", number);
        fflush(stdout);
    }
    return 0;
}
