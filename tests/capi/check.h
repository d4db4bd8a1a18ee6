/* check.h - what the test programs of the C API share: expectations, and output that is not the
 * library's. */
#ifndef CHECK_H
#define CHECK_H
#include <moering.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_failures;

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            dprintf(3, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition, \
                    mr_last_error());                                                        \
            __atomic_add_fetch(&check_failures, 1, __ATOMIC_RELAXED);                        \
        }                                                                                    \
    } while (0)

/* A call gives this status, and a failure says why. */
#define STATUS(call, wanted)                                                                  \
    do {                                                                                      \
        mr_status got_ = (call);                                                              \
        if (got_ != (wanted) || (got_ < 0) != (mr_last_error()[0] != '\0')) {                 \
            dprintf(3, "%s:%d: %s gives %s (%s), not %s\n", __FILE__, __LINE__, #call,        \
                    mr_status_name(got_), mr_last_error(), mr_status_name(wanted));           \
            __atomic_add_fetch(&check_failures, 1, __ATOMIC_RELAXED);                         \
        }                                                                                     \
    } while (0)

/* Standard output and standard error go to a file until quiet_end, which fails if it is not empty;
 * descriptor 3 is where this program reports. */
static int quiet_file = -1, quiet_out = -1, quiet_err = -1;

static void quiet_begin(void)
{
    char name[] = "/tmp/moering-quiet-XXXXXX";
    if (dup2(STDERR_FILENO, 3) != 3)
        abort();
    quiet_out = dup(STDOUT_FILENO);
    quiet_err = dup(STDERR_FILENO);
    quiet_file = mkstemp(name);
    unlink(name);
    dup2(quiet_file, STDOUT_FILENO);
    dup2(quiet_file, STDERR_FILENO);
}

static void quiet_end(void)
{
    char text[4096];
    ssize_t n;
    fflush(NULL);
    dup2(quiet_out, STDOUT_FILENO);
    dup2(quiet_err, STDERR_FILENO);
    close(quiet_out);
    close(quiet_err);
    n = pread(quiet_file, text, sizeof text - 1, 0);
    close(quiet_file);
    if (n != 0) {
        text[n > 0 ? n : 0] = '\0';
        dprintf(3, "the library wrote to stdout or stderr: %s\n", text);
        check_failures++;
    }
}

/* Appends what a session generates to text, at most size - 1 bytes. Returns the last status. */
static inline mr_status generate(mr_session *session, char *text, size_t size)
{
    const char *piece;
    size_t piece_size, used = 0;
    mr_status status;
    while ((status = mr_session_next(session, &piece, &piece_size)) == MR_OK)
        if (used + piece_size < size) {
            memcpy(text + used, piece, piece_size);
            used += piece_size;
        }
    text[used] = '\0';
    return status;
}
#endif
