/* hammer.c - many threads with sessions of their own on one engine: every answer is the one that a
 * session gives alone, and memory stays flat.
 *
 *     hammer THREADS SECONDS [KILOBYTES]     memory may grow by so much after the first quarter */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <time.h>

enum { THREADS_MAX = 256, PROMPTS = 8, TEXT_BYTES = 2048 };

static const char *prompts[PROMPTS] = {
    "package main\n\nimport (", "func (s *Server) ", "// Copy copies src to dst until",
    "type Reader interface {\n", "if err != nil {\n\treturn", "for i := range ",
    "var errClosed = errors.New(", "\tcase strings.HasPrefix("};
static char want[PROMPTS][TEXT_BYTES];
static mr_engine *engine;
static double end;
static uint64_t rounds, cancelled;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static long resident_kilobytes(void)
{
    long pages = 0, ignored;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%ld %ld", &ignored, &pages) != 2)
        pages = 0;
    if (f != NULL)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static mr_session *start(int prompt)
{
    mr_session_options o = MR_SESSION_OPTIONS_INIT;
    mr_session *s = NULL;
    o.tokens_max = 16;
    o.temperature = 0.7f;
    o.seed = (uint64_t)prompt;
    STATUS(mr_session_open(&s, engine, &o), MR_OK);
    STATUS(mr_session_feed(s, prompts[prompt], strlen(prompts[prompt])), MR_OK);
    return s;
}

static void *cancel_soon(void *session)
{
    usleep(500);
    mr_session_cancel(session);
    return NULL;
}

/* Generates to the end, whatever cancels it on the way. */
static void finish(mr_session *s, char *text)
{
    const char *piece;
    size_t size, used = 0;
    mr_status status;
    do {
        status = mr_session_next(s, &piece, &size);
        if (status == MR_OK && used + size < TEXT_BYTES) {
            memcpy(text + used, piece, size);
            used += size;
        }
        if (status == MR_ECANCELED)
            __atomic_add_fetch(&cancelled, 1, __ATOMIC_RELAXED);
    } while (status == MR_OK || status == MR_ECANCELED);
    text[used] = '\0';
    CHECK(status == MR_END);
}

static void *work(void *number)
{
    unsigned seed = (unsigned)(uintptr_t)number;
    char text[TEXT_BYTES];
    while (now() < end) {
        int prompt = (int)(rand_r(&seed) % PROMPTS);
        mr_session *s = start(prompt);
        pthread_t canceller;
        int what = (int)(rand_r(&seed) % 4);
        if (what == 1)
            pthread_create(&canceller, NULL, cancel_soon, s);
        if (what == 2) { /* generate twice: the second time after going back */
            size_t n = 0;
            STATUS(mr_session_length(s, &n), MR_OK);
            finish(s, text);
            CHECK(strcmp(text, want[prompt]) == 0);
            STATUS(mr_session_truncate(s, n - 1), MR_OK);
            STATUS(mr_session_truncate(s, 0), MR_OK);
            STATUS(mr_session_feed(s, prompts[prompt], strlen(prompts[prompt])), MR_OK);
        }
        finish(s, text);
        CHECK(strcmp(text, want[prompt]) == 0);
        if (what == 1)
            pthread_join(canceller, NULL);
        mr_session_close(s);
        __atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS_MAX];
    int n = argc > 2 ? atoi(argv[1]) : 0;
    double length = argc > 2 ? atof(argv[2]) : 0;
    long allowed = argc > 3 ? atol(argv[3]) : 0;
    if (n < 1 || n > THREADS_MAX)
        return 2;
    quiet_begin();
    mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
    o.context_tokens_max = 64;
    o.sequences_max = (uint32_t)n;
    STATUS(mr_engine_open(&engine, "mr:tiny", &o), MR_OK);
    for (int i = 0; i < PROMPTS; i++) {
        mr_session *s = start(i);
        finish(s, want[i]);
        CHECK(want[i][0] != '\0');
        mr_session_close(s);
    }
    double begin = now();
    end = begin + length;
    for (int i = 0; i < n; i++)
        pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i + 1));
    usleep((useconds_t)(length / 4 * 1e6));
    long early = resident_kilobytes();
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    long late = resident_kilobytes();
    mr_stats stats = MR_STATS_INIT;
    STATUS(mr_engine_stats(engine, &stats), MR_OK);
    CHECK(stats.sessions == 0 && rounds >= (uint64_t)n);
    mr_engine_close(engine);
    if (allowed > 0 && late - early > allowed) {
        dprintf(3, "resident memory grew from %ld to %ld kB\n", early, late);
        check_failures++;
    }
    quiet_end();
    printf("%s: %d threads, %.0f s, %llu rounds, %llu cancelled, %ld kB then %ld kB\n",
           check_failures == 0 ? "ok" : "failed", n, length, (unsigned long long)rounds,
           (unsigned long long)cancelled, early, late);
    return check_failures != 0;
}
