/* speed.c - tokens a second through the C API: from the first token to the last, as the command
 * line counts.
 *
 *     speed MODEL TOKENS */
#define _GNU_SOURCE
#include <moering.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
    mr_session_options so = MR_SESSION_OPTIONS_INIT;
    mr_engine *engine = NULL;
    mr_session *session = NULL;
    const char *text;
    size_t size;
    double first = 0, last = 0;
    int n = 0;
    if (argc != 3)
        return 2;
    o.context_tokens_max = 512;
    o.sequences_max = 1;
    so.tokens_max = (uint32_t)atoi(argv[2]);
    so.temperature = 0.8f;
    so.top_p = 0.95f;
    so.ignore_end = 1;
    mr_status status = mr_engine_open(&engine, argv[1], &o);
    if (status >= 0)
        status = mr_session_open(&session, engine, &so);
    if (status >= 0)
        status = mr_session_feed(session, "package main", 12);
    while (status >= 0 && (status = mr_session_next(session, &text, &size)) == MR_OK) {
        last = now();
        if (n++ == 0)
            first = last;
    }
    if (status != MR_END || n < 2) {
        fprintf(stderr, "%s\n", mr_last_error());
        return 1;
    }
    printf("%f\n", (n - 1) / (last - first));
    mr_session_close(session);
    mr_engine_close(engine);
    return 0;
}
