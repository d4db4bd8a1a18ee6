/* misuse.c - every mistake that a caller can make, one after the other. Each ends in a status and a
 * message; the program is built with AddressSanitizer, which finds what does not.
 *
 *     misuse MODEL.gguf DIRECTORY     DIRECTORY is empty and may be written to */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static const char *model, *directory;

static mr_engine *open_engine(uint32_t sequences)
{
    mr_engine_options options = MR_ENGINE_OPTIONS_INIT;
    mr_engine *engine = NULL;
    options.context_tokens_max = 256;
    options.sequences_max = sequences;
    STATUS(mr_engine_open(&engine, "mr:tiny", &options), MR_OK);
    return engine;
}

static mr_session *open_session(mr_engine *engine, uint32_t tokens_max)
{
    mr_session_options options = MR_SESSION_OPTIONS_INIT;
    mr_session *session = NULL;
    options.tokens_max = tokens_max;
    options.ignore_end = 1;
    STATUS(mr_session_open(&session, engine, &options), MR_OK);
    return session;
}

static int descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d != NULL && readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static int32_t no_result(void *user, const mr_result *result, size_t done, size_t total)
{
    (void)user, (void)result, (void)done, (void)total;
    return 0;
}

static int32_t no_write(void *user, const void *data, size_t size)
{
    (void)user, (void)data, (void)size;
    return 0;
}

static int64_t no_read(void *user, void *data, size_t capacity)
{
    (void)user, (void)data, (void)capacity;
    return 0;
}

/* All functions with NULL for each of their pointers in turn. */
static void null_everywhere(void)
{
    mr_engine *e = open_engine(2), *none = (mr_engine *)1;
    mr_session *s = open_session(e, 4), *no_session = (mr_session *)1;
    mr_batch *b = NULL, *no_batch = (mr_batch *)1;
    mr_token token = MR_TOKEN_INIT;
    mr_result result = MR_RESULT_INIT;
    mr_error error = MR_ERROR_INIT;
    size_t n = 0;
    int32_t id = 0;
    float value = 0;
    const float *values;
    const char *text;
    const char *texts[1] = {NULL};
    mr_message message = {NULL, "text"}, whole = {"user", "text"};
    mr_model_info info = MR_MODEL_INFO_INIT;
    mr_plan plan = MR_PLAN_INIT;
    mr_stats stats = MR_STATS_INIT;
    mr_token_prob prob;

    STATUS(mr_batch_open(&b, e, NULL, 1), MR_OK);
    STATUS(mr_engine_open(NULL, "mr:tiny", NULL), MR_EINVAL);
    STATUS(mr_engine_open(&none, NULL, NULL), MR_EINVAL);
    CHECK(none == NULL);
    mr_engine_close(NULL);
    mr_engine_cancel(NULL);
    STATUS(mr_plan_make(NULL, NULL, NULL, NULL), MR_EINVAL);
    STATUS(mr_plan_make("mr:tiny", NULL, NULL, NULL), MR_OK);
    STATUS(mr_engine_info(NULL, &info), MR_EINVAL);
    STATUS(mr_engine_info(e, NULL), MR_EINVAL);
    STATUS(mr_engine_plan(NULL, &plan), MR_EINVAL);
    STATUS(mr_engine_plan(e, NULL), MR_EINVAL);
    STATUS(mr_engine_stats(NULL, &stats), MR_EINVAL);
    STATUS(mr_engine_stats(e, NULL), MR_EINVAL);
    STATUS(mr_engine_encode(NULL, "a", 1, 0, &id, 1, &n), MR_EINVAL);
    STATUS(mr_engine_encode(e, NULL, 1, 0, &id, 1, &n), MR_EINVAL);
    STATUS(mr_engine_encode(e, "a", 1, 0, NULL, 1, &n), MR_EINVAL);
    STATUS(mr_engine_encode(e, "a", 1, 0, &id, 1, NULL), MR_EINVAL);
    STATUS(mr_engine_encode(e, NULL, 0, 0, NULL, 0, &n), MR_OK);
    STATUS(mr_engine_encode(e, "a", 1, 0, NULL, 0, &n), MR_ELIMIT);
    CHECK(n == 1);
    STATUS(mr_engine_decode(NULL, &id, 1, 0, NULL, 0, &n), MR_EINVAL);
    STATUS(mr_engine_decode(e, NULL, 1, 0, NULL, 0, &n), MR_EINVAL);
    STATUS(mr_engine_decode(e, &id, 1, 0, NULL, 1, &n), MR_EINVAL);
    STATUS(mr_engine_decode(e, &id, 1, 0, NULL, 0, NULL), MR_EINVAL);
    STATUS(mr_engine_token(NULL, 0, NULL, 0, &n, NULL), MR_EINVAL);
    STATUS(mr_engine_token(e, 0, NULL, 1, &n, NULL), MR_EINVAL);
    STATUS(mr_engine_token(e, 0, NULL, 0, NULL, NULL), MR_EINVAL);
    STATUS(mr_engine_find_token(NULL, "a", &id), MR_EINVAL);
    STATUS(mr_engine_find_token(e, NULL, &id), MR_EINVAL);
    STATUS(mr_engine_find_token(e, "a", NULL), MR_EINVAL);
    STATUS(mr_engine_chat_text(NULL, &whole, 1, NULL, 0, &n), MR_EINVAL);
    STATUS(mr_engine_chat_text(e, NULL, 1, NULL, 0, &n), MR_EINVAL);
    STATUS(mr_engine_chat_text(e, &message, 1, NULL, 0, &n), MR_EINVAL);
    STATUS(mr_engine_chat_text(e, &whole, 1, NULL, 1, &n), MR_EINVAL);
    STATUS(mr_engine_chat_text(e, &whole, 1, NULL, 0, NULL), MR_EINVAL);
    STATUS(mr_engine_chat_tokens(NULL, &whole, 1, NULL, 0, &n), MR_EINVAL);
    STATUS(mr_engine_chat_tokens(e, NULL, 1, NULL, 0, &n), MR_EINVAL);
    STATUS(mr_engine_chat_tokens(e, &message, 1, NULL, 0, &n), MR_EINVAL);
    STATUS(mr_engine_chat_tokens(e, &whole, 1, NULL, 1, &n), MR_EINVAL);
    STATUS(mr_engine_chat_tokens(e, &whole, 1, NULL, 0, NULL), MR_EINVAL);
    STATUS(mr_engine_embed(NULL, &id, 1, MR_POOL_MEAN, &value, 1, &n), MR_EINVAL);
    STATUS(mr_engine_embed(e, NULL, 1, MR_POOL_MEAN, &value, 1, &n), MR_EINVAL);
    STATUS(mr_engine_embed(e, &id, 1, MR_POOL_MEAN, NULL, 1, &n), MR_EINVAL);
    STATUS(mr_engine_embed(e, &id, 1, MR_POOL_MEAN, NULL, 0, NULL), MR_EINVAL);

    STATUS(mr_session_open(NULL, e, NULL), MR_EINVAL);
    STATUS(mr_session_open(&no_session, NULL, NULL), MR_EINVAL);
    CHECK(no_session == NULL);
    mr_session_close(NULL);
    mr_session_cancel(NULL);
    STATUS(mr_session_configure(NULL, NULL), MR_EINVAL);
    STATUS(mr_session_feed(NULL, "a", 1), MR_EINVAL);
    STATUS(mr_session_feed(s, NULL, 1), MR_EINVAL);
    STATUS(mr_session_feed(s, NULL, 0), MR_OK);
    STATUS(mr_session_feed_tokens(NULL, &id, 1), MR_EINVAL);
    STATUS(mr_session_feed_tokens(s, NULL, 1), MR_EINVAL);
    STATUS(mr_session_score(NULL, &id, 1, &value), MR_EINVAL);
    STATUS(mr_session_score(s, NULL, 1, &value), MR_EINVAL);
    STATUS(mr_session_score(s, &id, 1, NULL), MR_EINVAL);
    STATUS(mr_session_next(NULL, &text, &n), MR_EINVAL);
    STATUS(mr_session_next(s, NULL, &n), MR_EINVAL);
    STATUS(mr_session_next(s, &text, NULL), MR_EINVAL);
    STATUS(mr_session_next(s, &text, &n), MR_EINVAL); /* nothing was fed */
    CHECK(text != NULL && text[0] == '\0' && n == 0);
    STATUS(mr_session_token(NULL, &token), MR_EINVAL);
    STATUS(mr_session_token(s, NULL), MR_EINVAL);
    STATUS(mr_session_token(s, &token), MR_EINVAL); /* none was generated */
    STATUS(mr_session_length(NULL, &n), MR_EINVAL);
    STATUS(mr_session_length(s, NULL), MR_EINVAL);
    STATUS(mr_session_tokens(NULL, &id, 1, &n), MR_EINVAL);
    STATUS(mr_session_tokens(s, NULL, 1, &n), MR_EINVAL);
    STATUS(mr_session_tokens(s, NULL, 0, NULL), MR_EINVAL);
    STATUS(mr_session_logits(NULL, &values, &n), MR_EINVAL);
    STATUS(mr_session_logits(s, NULL, &n), MR_EINVAL);
    STATUS(mr_session_logits(s, &values, NULL), MR_EINVAL);
    STATUS(mr_session_logits(s, &values, &n), MR_EINVAL); /* nothing was fed */
    STATUS(mr_session_top(NULL, &prob, 1, &n), MR_EINVAL);
    STATUS(mr_session_top(s, NULL, 1, &n), MR_EINVAL);
    STATUS(mr_session_top(s, NULL, 0, NULL), MR_EINVAL);
    STATUS(mr_session_truncate(NULL, 0), MR_EINVAL);
    STATUS(mr_session_fork(NULL, s), MR_EINVAL);
    STATUS(mr_session_fork(&no_session, NULL), MR_EINVAL);
    STATUS(mr_session_save(s, NULL), MR_EINVAL);
    STATUS(mr_session_save(NULL, "x"), MR_EINVAL);
    STATUS(mr_session_save_to(NULL, no_write, NULL), MR_EINVAL);
    STATUS(mr_session_save_to(s, NULL, NULL), MR_EINVAL);
    STATUS(mr_session_save_to(s, no_write, NULL), MR_OK);
    STATUS(mr_session_restore(NULL, "x"), MR_EINVAL);
    STATUS(mr_session_restore(s, NULL), MR_EINVAL);
    STATUS(mr_session_restore_from(NULL, no_read, NULL), MR_EINVAL);
    STATUS(mr_session_restore_from(s, NULL, NULL), MR_EINVAL);
    STATUS(mr_session_restore_from(s, no_read, NULL), MR_EFORMAT);

    STATUS(mr_batch_open(NULL, e, NULL, 0), MR_EINVAL);
    STATUS(mr_batch_open(&no_batch, NULL, NULL, 0), MR_EINVAL);
    CHECK(no_batch == NULL);
    STATUS(mr_batch_submit(NULL, 0, "a", 1), MR_EINVAL);
    STATUS(mr_batch_submit(b, 0, NULL, 1), MR_EINVAL);
    STATUS(mr_batch_submit_tokens(NULL, 0, &id, 1), MR_EINVAL);
    STATUS(mr_batch_submit_tokens(b, 0, NULL, 1), MR_EINVAL);
    STATUS(mr_batch_next(NULL, &result), MR_EINVAL);
    STATUS(mr_batch_next(b, NULL), MR_EINVAL);
    mr_batch_cancel(NULL);
    mr_batch_wake(NULL);
    mr_batch_close(NULL);
    STATUS(mr_engine_batch(NULL, NULL, texts, NULL, 0, no_result, NULL), MR_EINVAL);
    STATUS(mr_engine_batch(e, NULL, NULL, NULL, 1, no_result, NULL), MR_EINVAL);
    STATUS(mr_engine_batch(e, NULL, texts, NULL, 1, no_result, NULL), MR_EINVAL);
    STATUS(mr_engine_batch(e, NULL, texts, NULL, 0, NULL, NULL), MR_EINVAL);

    mr_job_options job = MR_JOB_OPTIONS_INIT;
    STATUS(mr_job_run(NULL, NULL, &job, NULL), MR_EINVAL);
    STATUS(mr_job_run("mr:tiny", NULL, NULL, NULL), MR_EINVAL);
    STATUS(mr_job_run("mr:tiny", NULL, &job, NULL), MR_EINVAL); /* no input */
    job.model_names_count = 1;
    STATUS(mr_job_run("mr:tiny", NULL, &job, NULL), MR_EINVAL);

    CHECK(mr_last_error_detail(NULL) == MR_EINVAL);
    CHECK(mr_last_error_detail(&error) == MR_OK && error.message != NULL && error.file != NULL);
    CHECK(mr_status_name(12345) != NULL && mr_build_info()[0] != '\0');
    CHECK(mr_api_version() == MR_API_VERSION);
    mr_batch_close(b);
    mr_session_close(s);
    mr_engine_close(e);
}

/* Handles that were closed, of another kind, or never were any. */
static void closed_handles(void)
{
    mr_engine *e = open_engine(2);
    mr_session *s = open_session(e, 4), *t = open_session(e, 4), *none;
    mr_batch *b = NULL;
    mr_stats stats = MR_STATS_INIT;
    size_t n;
    char text[4096];
    void *rubbish[] = {(void *)1, (void *)-1, &n, text, (void *)((uintptr_t)s ^ (1 << 22)),
                       (void *)((uintptr_t)s ^ 1), (void *)((uintptr_t)1 << 63)};

    STATUS(mr_session_feed(s, "func", 4), MR_OK);
    STATUS(mr_engine_stats((mr_engine *)s, &stats), MR_ECLOSED);
    STATUS(mr_session_length((mr_session *)e, &n), MR_ECLOSED);
    for (size_t i = 0; i < sizeof rubbish / sizeof rubbish[0]; i++) {
        if (rubbish[i] == (void *)t)
            continue;
        STATUS(mr_engine_stats(rubbish[i], &stats), MR_ECLOSED);
        STATUS(mr_session_length(rubbish[i], &n), MR_ECLOSED);
        STATUS(mr_batch_submit(rubbish[i], 0, "a", 1), MR_ECLOSED);
        mr_session_cancel(rubbish[i]);
        mr_session_close(rubbish[i]);
        mr_batch_wake(rubbish[i]);
        mr_batch_close(rubbish[i]);
        mr_engine_cancel(rubbish[i]);
        mr_engine_close(rubbish[i]);
    }
    mr_session_close(t);
    mr_session_close(t);
    STATUS(mr_session_feed(t, "a", 1), MR_ECLOSED);
    STATUS(mr_session_fork(&none, t), MR_ECLOSED);
    STATUS(mr_batch_open(&b, e, NULL, 1), MR_OK);
    /* The engine goes first, and lives on in its session and batch. */
    mr_engine_close(e);
    mr_engine_close(e);
    STATUS(mr_engine_stats(e, &stats), MR_ECLOSED);
    STATUS(mr_session_open(&none, e, NULL), MR_ECLOSED);
    CHECK(generate(s, text, sizeof text) == MR_END && text[0] != '\0');
    STATUS(mr_batch_submit(b, 7, "func", 4), MR_OK);
    mr_session_close(s);
    mr_batch_close(b); /* with a prompt under way */
    STATUS(mr_batch_submit(b, 0, "a", 1), MR_ECLOSED);
    STATUS(mr_session_length(s, &n), MR_ECLOSED);
}

/* Options and results of older and newer versions of the structs. */
static void struct_sizes(void)
{
    struct {
        mr_engine_options known;
        uint64_t tail[2];
    } newer = {MR_ENGINE_OPTIONS_INIT, {0, 0}};
    struct {
        mr_stats known;
        uint64_t tail;
    } more = {MR_STATS_INIT, 7};
    mr_engine_options older = MR_ENGINE_OPTIONS_INIT;
    mr_stats stats = MR_STATS_INIT;
    mr_engine *e = NULL;
    mr_engine_info(e, NULL);

    older.struct_size = offsetof(mr_engine_options, device);
    older.device = "no such device"; /* behind the older struct's end */
    STATUS(mr_engine_open(&e, "mr:tiny", &older), MR_OK);
    mr_engine_close(e);
    newer.known.struct_size = sizeof newer;
    STATUS(mr_engine_open(&e, "mr:tiny", &newer.known), MR_OK);
    newer.tail[1] = 1;
    mr_engine *refused = NULL;
    STATUS(mr_engine_open(&refused, "mr:tiny", &newer.known), MR_EINVAL);
    CHECK(strstr(mr_last_error(), "newer") != NULL);
    for (uint32_t size = 0; size < 4; size++) {
        older.struct_size = size;
        STATUS(mr_engine_open(&refused, "mr:tiny", &older), MR_EINVAL);
    }
    older.struct_size = 0xffffffff;
    STATUS(mr_engine_open(&refused, "mr:tiny", &older), MR_EINVAL);
    stats.struct_size = 0;
    STATUS(mr_engine_stats(e, &stats), MR_EINVAL);
    stats.struct_size = offsetof(mr_stats, prefill_tokens);
    stats.prefill_tokens = 4711;
    STATUS(mr_engine_stats(e, &stats), MR_OK);
    CHECK(stats.prefill_tokens == 4711 && stats.struct_size == offsetof(mr_stats, prefill_tokens));
    more.known.struct_size = sizeof more;
    STATUS(mr_engine_stats(e, &more.known), MR_OK);
    CHECK(more.tail == 0 && more.known.struct_size == sizeof more);
    mr_engine_close(e);
}

/* Arguments that make no sense, budgets that are too small, models that are none. */
static void senseless(void)
{
    mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
    mr_session_options so = MR_SESSION_OPTIONS_INIT;
    mr_plan plan = MR_PLAN_INIT;
    mr_engine *e = NULL;
    mr_session *s = NULL;
    mr_error error = MR_ERROR_INIT;
    int32_t ids[300] = {1, 2, 3};
    float logprobs[300];
    size_t n;
    char path[4096];

    STATUS(mr_engine_open(&e, "/no/such/model.gguf", NULL), MR_EIO);
    CHECK(mr_last_error_detail(&error) == MR_OK);
    CHECK(error.status == MR_EIO && strcmp(error.file, "/no/such/model.gguf") == 0);
    STATUS(mr_engine_open(&e, "mr:enormous", NULL), MR_EINVAL);
    CHECK(mr_last_error_detail(&error) == MR_OK && error.file[0] == '\0' && error.offset == -1);
    STATUS(mr_engine_open(&e, "", NULL), MR_EIO);
    snprintf(path, sizeof path, "%s/rubbish.gguf", directory);
    FILE *file = fopen(path, "w");
    fputs("GGUF and then nothing that is any", file);
    fclose(file);
    mr_status status = mr_engine_open(&e, path, NULL);
    CHECK(status == MR_EFORMAT || status == MR_EUNSUPPORTED);
    unlink(path);
    o.device = "abacus";
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.device = NULL;
    o.prefetch = 9;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.prefetch = 0;
    o.threads = -1;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.threads = 0;
    o.host_bytes_max = UINT64_MAX;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.host_bytes_max = 0;
    o.device = "cuda:99";
    CHECK(mr_engine_open(&e, "mr:tiny", &o) < 0 && mr_last_error()[0] != '\0');
    o.device = "cpu";
    o.device_bytes_max = 1 << 30; /* it has no memory of its own */
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EUNSUPPORTED);
    o.device_bytes_max = 0;
    o.device = NULL;
    o.kv_type = "q1";
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.kv_type = NULL;
    o.verify = "sometimes";
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.verify = NULL;
    o.reader = "punched cards";
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.reader = NULL;
    o.policy = "whim";
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.policy = NULL;
    o.cublaslt = "perhaps";
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.cublaslt = NULL;
    o.kv_tokens_max = UINT64_MAX;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.kv_tokens_max = 0;
    o.io_timeout_ms = UINT64_MAX;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EINVAL);
    o.io_timeout_ms = 0;
    o.trace = "/no/such/directory/trace.json";
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_EIO);
    o.trace = NULL;
    o.context_tokens_max = 128;
    o.host_bytes_max = 1;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_ENOMEM);
    STATUS(mr_plan_make("mr:tiny", &o, NULL, &plan), MR_OK);
    CHECK(plan.least_bytes > plan.budget_bytes && plan.budget_bytes == 1);
    o.host_bytes_max = plan.least_bytes - 1;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_ENOMEM);
    o.host_bytes_max = plan.least_bytes;
    o.sequences_max = 1;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_OK);

    so.temperature = -1;
    STATUS(mr_session_open(&s, e, &so), MR_EINVAL);
    so.temperature = NAN;
    STATUS(mr_session_open(&s, e, &so), MR_EINVAL);
    so.temperature = INFINITY;
    STATUS(mr_session_open(&s, e, &so), MR_EINVAL);
    so.temperature = 0;
    so.stop_count = 1;
    STATUS(mr_session_open(&s, e, &so), MR_EINVAL);
    so.stop = (const char *const[]){NULL};
    STATUS(mr_session_open(&s, e, &so), MR_EINVAL);
    so.stop_count = SIZE_MAX;
    STATUS(mr_session_open(&s, e, &so), MR_EINVAL);
    so.stop_count = 0;
    STATUS(mr_session_open(&s, e, &so), MR_OK);
    mr_session *second = NULL;
    STATUS(mr_session_open(&second, e, NULL), MR_ELIMIT);
    STATUS(mr_session_fork(&second, s), MR_ELIMIT);
    STATUS(mr_engine_embed(e, ids, 3, MR_POOL_MEAN, logprobs, 300, &n), MR_ELIMIT);
    mr_batch *b = NULL;
    STATUS(mr_batch_open(&b, e, NULL, 0), MR_ELIMIT);
    STATUS(mr_batch_open(&b, e, NULL, 99), MR_EINVAL);
    STATUS(mr_session_feed(s, "x", (size_t)1 << 40), MR_EINVAL);
    STATUS(mr_session_feed_tokens(s, ids, (size_t)1 << 40), MR_EINVAL);
    STATUS(mr_session_feed_tokens(s, ids, 300), MR_ELIMIT);
    ids[1] = -5;
    STATUS(mr_session_feed_tokens(s, ids, 3), MR_EINVAL);
    STATUS(mr_session_score(s, ids, 3, logprobs), MR_EINVAL);
    ids[1] = 2;
    STATUS(mr_session_truncate(s, 5), MR_EINVAL);
    STATUS(mr_session_truncate(s, SIZE_MAX), MR_EINVAL);
    STATUS(mr_engine_decode(e, ids, 3, 77, path, sizeof path, &n), MR_EINVAL);
    STATUS(mr_engine_encode(e, "a", 1, 77, ids, 3, &n), MR_EINVAL);
    STATUS(mr_engine_token(e, -1, path, sizeof path, &n, NULL), MR_EINVAL);
    STATUS(mr_engine_find_token(e, "no such token at all", ids), MR_EINVAL);
    STATUS(mr_session_restore(s, "/no/such/state"), MR_EIO);
    STATUS(mr_session_feed(s, "func", 4), MR_OK);
    mr_session_close(s);
    STATUS(mr_engine_embed(e, ids, 3, 5, logprobs, 300, &n), MR_EINVAL);
    STATUS(mr_engine_embed(e, ids, 3, MR_POOL_LAST, logprobs, 5, &n), MR_ELIMIT);
    CHECK(n == 256);
    STATUS(mr_engine_embed(e, ids, 3, MR_POOL_LAST, logprobs, 300, &n), MR_OK);
    mr_engine_close(e);
}

/* Two threads on one session: the second is refused while the first is inside. */
static sem_t inside, leave;

static int32_t write_and_wait(void *user, const void *data, size_t size)
{
    (void)data, (void)size;
    if (*(int *)user == 0) {
        *(int *)user = 1;
        sem_post(&inside);
        sem_wait(&leave);
    }
    return 0;
}

static void *save_slowly(void *session)
{
    int waited = 0;
    STATUS(mr_session_save_to(session, write_and_wait, &waited), MR_OK);
    return NULL;
}

static void two_threads_on_one_session(void)
{
    mr_engine *e = open_engine(1);
    mr_session *s = open_session(e, 4);
    const char *text;
    size_t n;
    pthread_t thread;
    sem_init(&inside, 0, 0);
    sem_init(&leave, 0, 0);
    STATUS(mr_session_feed(s, "func", 4), MR_OK);
    pthread_create(&thread, NULL, save_slowly, s);
    sem_wait(&inside);
    STATUS(mr_session_next(s, &text, &n), MR_EBUSY);
    STATUS(mr_session_feed(s, "a", 1), MR_EBUSY);
    STATUS(mr_session_length(s, &n), MR_EBUSY);
    sem_post(&leave);
    pthread_join(thread, NULL);
    STATUS(mr_session_next(s, &text, &n), MR_OK);
    mr_session_close(s);
    mr_engine_close(e);
}

/* A handle is closed by another thread while this one looks at what it lent: that stays until this
 * thread's next call, or its end. */
typedef struct {
    mr_session *session;
    mr_batch *batch;
    int calls_again;
} looker;

static void *look(void *user)
{
    looker *l = user;
    const char *text;
    const float *logits = NULL;
    size_t n, count = 0;
    mr_token token = MR_TOKEN_INIT;
    mr_result r = MR_RESULT_INIT;
    STATUS(mr_session_next(l->session, &text, &n), MR_OK);
    if (l->calls_again)
        STATUS(mr_session_logits(l->session, &logits, &count), MR_OK);
    else
        STATUS(mr_session_token(l->session, &token), MR_OK);
    STATUS(mr_batch_next(l->batch, &r), MR_OK);
    sem_post(&inside);
    sem_wait(&leave); /* both are closed now */
    CHECK(strlen(r.text) == r.text_size && r.tokens[r.tokens_count - 1] >= 0 && r.error[0] == 0);
    float sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += logits[i];
    CHECK(isfinite(sum));
    if (!l->calls_again)
        CHECK(strlen(token.text) == n && token.alternatives[1].logprob < 0);
    if (l->calls_again) {
        STATUS(mr_session_next(l->session, &text, &n), MR_ECLOSED);
        STATUS(mr_batch_next(l->batch, &r), MR_ECLOSED);
    }
    return NULL;
}

static void closed_while_looked_at(void)
{
    mr_engine *e = open_engine(2);
    mr_session_options o = MR_SESSION_OPTIONS_INIT;
    pthread_t thread;
    sem_init(&inside, 0, 0);
    sem_init(&leave, 0, 0);
    o.logprobs = 2;
    o.tokens_max = 4;
    for (int again = 0; again < 2; again++) {
        looker l = {.calls_again = again};
        STATUS(mr_session_open(&l.session, e, &o), MR_OK);
        STATUS(mr_batch_open(&l.batch, e, &o, 1), MR_OK);
        STATUS(mr_session_feed(l.session, "func", 4), MR_OK);
        STATUS(mr_batch_submit(l.batch, 0, "func", 4), MR_OK);
        pthread_create(&thread, NULL, look, &l);
        sem_wait(&inside);
        mr_session_close(l.session);
        mr_batch_close(l.batch);
        sem_post(&leave);
        pthread_join(thread, NULL);
    }
    mr_engine_close(e);
}

/* Cancelling an opening, by the flag that another thread sets, and from its poll callback. */
static void *set_soon(void *flag)
{
    usleep(5000);
    __atomic_store_n((int32_t *)flag, 1, __ATOMIC_RELAXED);
    return NULL;
}

static int32_t at_once(void *user, uint64_t done, uint64_t total)
{
    (void)total;
    *(uint64_t *)user += 1 + (done > 1);
    return 1;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void cancel_during_open(void)
{
    int before = descriptors(), cancelled = 0, slow = 0;
    mr_engine_options flagged = MR_ENGINE_OPTIONS_INIT;
    mr_engine *none = NULL;
    int32_t flag = 1;
    flagged.open_cancel = &flag;
    STATUS(mr_engine_open(&none, "mr:tiny", &flagged), MR_ECANCELED);
    CHECK(none == NULL);
    for (int i = 0; i < 6; i++) {
        pthread_t thread;
        double start = seconds();
        flag = 0;
        pthread_create(&thread, NULL, set_soon, &flag);
        mr_status status = mr_engine_open(&none, "mr:tiny", &flagged);
        slow += seconds() - start > 0.05;
        cancelled += status == MR_ECANCELED;
        CHECK(status == MR_ECANCELED ? none == NULL : status == MR_OK);
        pthread_join(thread, NULL);
        if (status == MR_OK) { /* the flag is for the opening alone */
            mr_session *s = open_session(none, 1);
            STATUS(mr_session_feed(s, "func", 4), MR_OK);
            mr_session_close(s);
        }
        mr_engine_close(none);
    }
    CHECK(cancelled > 0 || slow == 0);
    cancelled = slow = 0;
    for (int i = 0; i < 12; i++) {
        mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
        mr_engine *e = NULL;
        uint64_t calls = 0;
        double start = seconds();
        o.poll = at_once;
        o.poll_user = &calls;
        mr_status status = mr_engine_open(&e, "mr:tiny", &o);
        slow += seconds() - start > 0.03;
        cancelled += status == MR_ECANCELED;
        CHECK(status == MR_ECANCELED ? e == NULL && calls > 0 : status == MR_OK);
        mr_engine_close(e);
    }
    CHECK(cancelled > 0 || slow == 0);
    CHECK(descriptors() == before);
}

/* Cancelling and closing while another thread generates. */
typedef struct {
    mr_session *session;
    mr_status status;
    int cancelled, tokens;
    char text[8192];
} generator;

static void *generate_on(void *user)
{
    generator *g = user;
    const char *text;
    size_t n, used = 0;
    do {
        g->status = mr_session_next(g->session, &text, &n);
        if (g->status == MR_OK) {
            memcpy(g->text + used, text, n);
            used += n;
            __atomic_add_fetch(&g->tokens, 1, __ATOMIC_RELAXED);
        }
        g->cancelled += g->status == MR_ECANCELED;
    } while (g->status == MR_OK || g->status == MR_ECANCELED);
    return NULL;
}

static void cancel_and_close_during_generate(void)
{
    mr_engine *e = open_engine(3);
    char want[8192];
    pthread_t thread;
    mr_session *s = open_session(e, 100);
    STATUS(mr_session_feed(s, "func main", 9), MR_OK);
    CHECK(generate(s, want, sizeof want) == MR_END);
    mr_session_close(s);

    generator g = {.session = open_session(e, 100)};
    STATUS(mr_session_feed(g.session, "func main", 9), MR_OK);
    pthread_create(&thread, NULL, generate_on, &g);
    while (__atomic_load_n(&g.tokens, __ATOMIC_RELAXED) < 90) {
        mr_session_cancel(g.session);
        usleep(300);
    }
    pthread_join(thread, NULL);
    CHECK(g.status == MR_END && g.cancelled > 0);
    CHECK(strcmp(g.text, want) == 0); /* goes on where it stopped */
    mr_session_close(g.session);

    for (int i = 0; i < 10; i++) {
        generator c = {.session = open_session(e, 0)};
        STATUS(mr_session_feed(c.session, "func main", 9), MR_OK);
        pthread_create(&thread, NULL, generate_on, &c);
        usleep(1000 * (useconds_t)i);
        mr_session_close(c.session);
        pthread_join(thread, NULL);
        CHECK(c.status == MR_ECLOSED || c.status == MR_END);
    }
    /* The engine is closed while a session generates: that goes on to its end. */
    generator last = {.session = open_session(e, 100)};
    STATUS(mr_session_feed(last.session, "func main", 9), MR_OK);
    pthread_create(&thread, NULL, generate_on, &last);
    mr_engine_close(e);
    pthread_join(thread, NULL);
    CHECK(last.status == MR_END && strcmp(last.text, want) == 0);
    mr_session_close(last.session);
}

/* A model file that goes away or is cut while open. */
static void copy_file(const char *from, const char *to)
{
    char block[1 << 16];
    ssize_t n;
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while ((n = read(in, block, sizeof block)) > 0)
        CHECK(write(out, block, (size_t)n) == n);
    close(in);
    close(out);
}

static void file_goes_away(void)
{
    char path[4096], text[8192], want[8192];
    mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
    mr_plan plan = MR_PLAN_INIT;
    mr_engine *e = open_engine(1);
    mr_error error = MR_ERROR_INIT;
    mr_session *s = open_session(e, 30);
    STATUS(mr_session_feed(s, "func main", 9), MR_OK);
    CHECK(generate(s, want, sizeof want) == MR_END);
    mr_session_close(s);
    mr_engine_close(e);

    snprintf(path, sizeof path, "%s/model.gguf", directory);
    o.context_tokens_max = 256;
    o.sequences_max = 2;
    o.host_bytes_max = 1;
    STATUS(mr_plan_make(model, &o, NULL, &plan), MR_OK);
    o.host_bytes_max = plan.least_bytes; /* experts stream */
    for (int cut = 0; cut < 2; cut++) {
        copy_file(model, path);
        STATUS(mr_engine_open(&e, path, &o), MR_OK);
        if (cut)
            CHECK(truncate(path, 4096) == 0);
        CHECK(unlink(path) == 0);
        s = open_session(e, 30);
        mr_status status = mr_session_feed(s, "func main", 9);
        if (cut) {
            CHECK(status == MR_EIO || status == MR_EFORMAT);
            CHECK(mr_last_error_detail(&error) == MR_OK && strcmp(error.file, path) == 0);
            CHECK(error.tensor[0] != '\0' && error.offset > 0);
        } else {
            CHECK(status == MR_OK && generate(s, text, sizeof text) == MR_END);
            CHECK(strcmp(text, want) == 0);
            STATUS(mr_session_save_to(s, no_write, NULL), MR_OK);
        }
        mr_session_close(s);
        mr_engine_close(e);
    }
}

/* Saving where there is no room, and restoring what is damaged. */
typedef struct {
    char *data;
    size_t size, capacity, at;
} memory;

static int32_t write_memory(void *user, const void *data, size_t size)
{
    memory *m = user;
    if (m->size + size > m->capacity)
        return 1;
    memcpy(m->data + m->size, data, size);
    m->size += size;
    return 0;
}

static int64_t read_memory(void *user, void *data, size_t capacity)
{
    memory *m = user;
    size_t n = m->size - m->at < capacity ? m->size - m->at : capacity;
    memcpy(data, m->data + m->at, n);
    m->at += n;
    return (int64_t)n;
}

static int64_t read_too_much(void *user, void *data, size_t capacity)
{
    (void)user, (void)data;
    return (int64_t)capacity + 1;
}

static int files(void)
{
    int n = 0;
    DIR *d = opendir(directory);
    while (d != NULL && readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static void save_and_restore(void)
{
    mr_engine *e = open_engine(2);
    mr_session *s = open_session(e, 20), *t = open_session(e, 20);
    memory m = {.data = malloc(4 << 20), .capacity = 4 << 20};
    struct rlimit limit, small = {8192, 0};
    char path[4096], want[4096], got[4096];
    size_t n;
    STATUS(mr_session_feed(s, "package main\n\nimport (", 22), MR_OK);
    STATUS(mr_session_save_to(s, write_memory, &m), MR_OK);
    STATUS(mr_session_restore_from(t, read_memory, &m), MR_OK);
    snprintf(path, sizeof path, "%s/state", directory);
    STATUS(mr_session_save(s, path), MR_OK);
    CHECK(generate(s, want, sizeof want) == MR_END);
    CHECK(generate(t, got, sizeof got) == MR_END && strcmp(got, want) == 0);
    STATUS(mr_session_restore(t, path), MR_OK);
    CHECK(generate(t, got, sizeof got) == MR_END && strcmp(got, want) == 0);

    m.data[m.size / 2] ^= 1;
    m.at = 0;
    STATUS(mr_session_restore_from(t, read_memory, &m), MR_EFORMAT);
    STATUS(mr_session_length(t, &n), MR_OK);
    CHECK(n == 0);
    STATUS(mr_session_restore_from(t, read_too_much, NULL), MR_EIO);
    m.size = 0;
    m.capacity = 5000;
    STATUS(mr_session_save_to(s, write_memory, &m), MR_EIO);
    STATUS(mr_session_save(s, "/no/such/directory/state"), MR_EIO);
    /* A full disk, by the limit on the size of files. */
    int before = files();
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    small.rlim_max = limit.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    snprintf(path, sizeof path, "%s/full", directory);
    STATUS(mr_session_save(s, path), MR_EIO);
    setrlimit(RLIMIT_FSIZE, &limit);
    CHECK(files() == before && access(path, F_OK) != 0);
    snprintf(path, sizeof path, "%s/state", directory);
    unlink(path);
    free(m.data);
    mr_session_close(s);
    mr_session_close(t);
    mr_engine_close(e);
}

/* Batches: a full queue, cancelled, closed early, stopped by the callback. */
static int32_t stop_at_two(void *user, const mr_result *result, size_t done, size_t total)
{
    CHECK(result->status == MR_OK && result->text_size == strlen(result->text) && total == 5);
    *(size_t *)user = done;
    return done == 2;
}

static int32_t count(void *user, const mr_result *result, size_t done, size_t total)
{
    (void)done, (void)total;
    ((mr_status *)user)[result->id] = result->status;
    return 0;
}

/* Waking and closing a batch while another thread waits for a result. */
static void *next_until_closed(void *user)
{
    looker *l = user;
    mr_result r = MR_RESULT_INIT;
    mr_status status;
    int woken = 0, results = 0;
    do {
        status = mr_batch_next(l->batch, &r);
        results += status == MR_OK;
        woken += status == MR_ECANCELED;
        if (woken == 1 || status == MR_END)
            sem_post(&inside);
    } while (status == MR_OK || status == MR_ECANCELED);
    CHECK(woken > 0 && results == 0);
    STATUS(status, MR_ECLOSED);
    return NULL;
}

static void batch_woken_and_closed(void)
{
    mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
    mr_session_options so = MR_SESSION_OPTIONS_INIT;
    mr_engine *e = NULL;
    looker l = {0};
    pthread_t thread;
    sem_init(&inside, 0, 0);
    o.device = "ref"; /* slow: nothing is finished before the close */
    o.context_tokens_max = 4096;
    o.sequences_max = 1;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_OK);
    so.ignore_end = 1;
    STATUS(mr_batch_open(&l.batch, e, &so, 1), MR_OK);
    STATUS(mr_batch_submit(l.batch, 0, "func", 4), MR_OK);
    pthread_create(&thread, NULL, next_until_closed, &l);
    while (sem_trywait(&inside) != 0) {
        mr_batch_wake(l.batch);
        usleep(300);
    }
    mr_batch_close(l.batch);
    pthread_join(thread, NULL);
    mr_engine_close(e);
}

static void batches(void)
{
    mr_engine *e = open_engine(2);
    mr_session_options o = MR_SESSION_OPTIONS_INIT;
    mr_batch *b = NULL;
    mr_result r = MR_RESULT_INIT;
    const char *texts[5] = {"func", "type", "var", "package", "// A"};
    mr_status statuses[5] = {9, 9, 9, 9, 9};
    mr_status status;
    size_t done = 0, queued = 0;
    char long_text[8192];
    o.tokens_max = 8;
    STATUS(mr_batch_open(&b, e, &o, 2), MR_OK);
    STATUS(mr_batch_next(b, &r), MR_END);
    while ((status = mr_batch_submit(b, queued, "func", 4)) == MR_OK)
        queued++;
    CHECK(status == MR_AGAIN && queued >= 2);
    STATUS(mr_batch_next(b, &r), MR_OK);
    CHECK(r.status == MR_OK && r.tokens_count > 0 && r.error[0] == '\0' && r.prompt_tokens > 0);
    mr_batch_cancel(b);
    while ((status = mr_batch_next(b, &r)) == MR_OK)
        queued--;
    CHECK(status == MR_END && queued == 1);
    STATUS(mr_batch_submit(b, 0, "func", 4), MR_ECANCELED);
    mr_batch_close(b);
    STATUS(mr_engine_batch(e, &o, texts, NULL, 5, stop_at_two, &done), MR_ECANCELED);
    CHECK(done == 2);
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    texts[3] = long_text; /* does not fit the context: fails alone */
    STATUS(mr_engine_batch(e, &o, texts, NULL, 5, count, statuses), MR_OK);
    for (int i = 0; i < 5; i++)
        CHECK(statuses[i] == (i == 3 ? MR_ELIMIT : MR_OK));
    mr_engine_close(e);
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    CHECK(f != NULL && fputs(text, f) >= 0 && fclose(f) == 0);
}

static int32_t cancel_job(void *user, const mr_job_progress *progress)
{
    (void)user;
    return progress->finished > 0;
}

/* Takes the input away under a job. */
static int32_t cut_input(void *user, const mr_job_progress *progress)
{
    (void)progress;
    CHECK(truncate(user, 5) == 0);
    return 0;
}

/* Jobs whose files or options are wrong, of older and newer programs, cancelled and gone on with. */
static void job_files(void)
{
    char in[4096], out[4096], packed[4096];
    struct {
        mr_job_options known;
        uint64_t tail;
    } newer = {MR_JOB_OPTIONS_INIT, 0};
    mr_job_options o = MR_JOB_OPTIONS_INIT, older = MR_JOB_OPTIONS_INIT;
    mr_job_result r = MR_JOB_RESULT_INIT;
    mr_error error = MR_ERROR_INIT;
    int32_t set = 1;
    snprintf(in, sizeof in, "%s/in.txt", directory);
    snprintf(out, sizeof out, "%s/out.jsonl", directory);
    snprintf(packed, sizeof packed, "%s/in.gz", directory);
    write_text(in, "func main\ntype T\nvar x\nconst y\n");
    o.input = in;
    o.output = out;
    o.tokens_max = 6;

    o.cancel = &set;
    STATUS(mr_job_run("mr:tiny", NULL, &o, &r), MR_ECANCELED);
    CHECK(r.requests == 0 && !r.complete && r.output[0] == '\0');
    o.cancel = NULL;
    o.progress = cancel_job;
    mr_engine_options eo = MR_ENGINE_OPTIONS_INIT;
    eo.sequences_max = 1; /* one after the other */
    STATUS(mr_job_run("mr:tiny", &eo, &o, &r), MR_ECANCELED);
    CHECK(r.requests == 4 && r.finished > 0 && r.finished < 4 && access(out, F_OK) != 0);
    uint64_t before = r.finished;
    o.progress = NULL;
    STATUS(mr_job_run("mr:tiny", NULL, &o, &r), MR_OK);
    CHECK(r.complete && r.resumed == before && r.finished == 4 && access(out, F_OK) == 0);
    CHECK(r.errors[0] == '\0' && r.new_tokens > 0 && strcmp(r.output, out) == 0);

    older = o; /* what is behind the older struct's end is not looked at */
    older.struct_size = offsetof(mr_job_options, errors);
    older.errors = "/no/such/directory/errors";
    older.overwrite = 1;
    STATUS(mr_job_run("mr:tiny", NULL, &older, NULL), MR_OK);
    newer.known = o;
    newer.known.struct_size = sizeof newer;
    STATUS(mr_job_run("mr:tiny", NULL, &newer.known, NULL), MR_OK);
    newer.tail = 1;
    STATUS(mr_job_run("mr:tiny", NULL, &newer.known, NULL), MR_EINVAL);
    CHECK(strstr(mr_last_error(), "newer") != NULL);
    r.struct_size = offsetof(mr_job_result, finished);
    r.finished = 4711;
    STATUS(mr_job_run("mr:tiny", NULL, &o, &r), MR_OK);
    CHECK(r.requests == 4 && r.finished == 4711);
    r.struct_size = 3;
    STATUS(mr_job_run("mr:tiny", NULL, &o, &r), MR_EINVAL);

    o.seed = 5; /* the journal is of another job */
    STATUS(mr_job_run("mr:tiny", NULL, &o, NULL), MR_EINVAL);
    o.seed = 0;
    o.format = "csv";
    STATUS(mr_job_run("mr:tiny", NULL, &o, NULL), MR_EINVAL);
    o.format = NULL;
    o.input = o.output = "-"; /* standard input and output are the program's */
    STATUS(mr_job_run("mr:tiny", NULL, &o, NULL), MR_EINVAL);
    o.input = o.output = in;
    STATUS(mr_job_run("mr:tiny", NULL, &o, NULL), MR_EINVAL);
    unlink(out);
    o.output = out;
    o.input = "/no/such/file";
    STATUS(mr_job_run("mr:tiny", NULL, &o, NULL), MR_EIO);
    CHECK(mr_last_error_detail(&error) == MR_OK && strcmp(error.file, o.input) == 0);
    CHECK(error.line == 0 && error.offset == -1);
    write_text(packed, "this is not compressed");
    o.input = packed;
    STATUS(mr_job_run("mr:tiny", NULL, &o, NULL), MR_EIO);
    CHECK(mr_last_error_detail(&error) == MR_OK && strcmp(error.file, packed) == 0);
    o.input = in;
    o.output = "/no/such/directory/out.jsonl";
    STATUS(mr_job_run("mr:tiny", NULL, &o, NULL), MR_EIO);
    CHECK(mr_last_error_detail(&error) == MR_OK && strstr(error.file, "/no/such/directory") != NULL);
    snprintf(out, sizeof out, "%s/other.jsonl", directory);
    o.output = out;
    o.progress = cut_input;
    o.user = in;
    STATUS(mr_job_run("mr:tiny", NULL, &o, &(mr_job_result)MR_JOB_RESULT_INIT), MR_EIO);
    CHECK(mr_last_error_detail(&error) == MR_OK && strcmp(error.file, in) == 0 && error.line > 0);
    STATUS(mr_job_run("/no/such/model", NULL, &o, NULL), MR_EIO);
}

/* After fork a child is told so, and the parent goes on. */
static void forked(void)
{
    mr_engine *e = open_engine(1), *none = NULL;
    mr_session *s = open_session(e, 4);
    char text[4096];
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        size_t n;
        STATUS(mr_session_length(s, &n), MR_EFORK);
        STATUS(mr_engine_open(&none, "mr:tiny", NULL), MR_EFORK);
        CHECK(strstr(mr_last_error(), "forked") != NULL);
        STATUS(mr_job_run("mr:tiny", NULL, NULL, NULL), MR_EFORK);
        mr_session_cancel(s);
        mr_session_close(s);
        mr_engine_close(e);
        _exit(check_failures != 0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    STATUS(mr_session_feed(s, "func", 4), MR_OK);
    CHECK(generate(s, text, sizeof text) == MR_END);
    mr_session_close(s);
    mr_engine_close(e);
}

/* What the program sets while it runs is seen. */
static void environment(void)
{
    mr_plan plan = MR_PLAN_INIT;
    setenv("MOERING_HOST_BYTES_MAX", "123456789", 1);
    setenv("MOERING_DEVICE", "ref", 1);
    STATUS(mr_plan_make("mr:tiny", NULL, NULL, &plan), MR_OK);
    CHECK(plan.budget_bytes == 123456789 && strcmp(plan.device, "ref") == 0);
    unsetenv("MOERING_HOST_BYTES_MAX");
    unsetenv("MOERING_DEVICE");
    setenv("MOERING_CPU_ISA", "no such instruction set", 1);
    mr_engine *e = NULL;
    mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
    o.device = "cpu";
    CHECK(mr_engine_open(&e, "mr:tiny", &o) < 0);
    unsetenv("MOERING_CPU_ISA");
}

/* The log goes to the callback. */
static void to_log(void *user, int32_t level, const char *message)
{
    if (level >= MR_LOG_DEBUG && level <= MR_LOG_ERROR && message[0] != '\0')
        __atomic_add_fetch((int *)user, 1, __ATOMIC_RELAXED);
}

static void logging(void)
{
    mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
    mr_engine *e = NULL;
    int lines = 0;
    o.log = to_log;
    o.log_user = &lines;
    STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_OK);
    mr_engine_close(e);
    CHECK(lines > 0);
}

/* The smaller keys and values; traces that are complete once the engine is freed, and one whose
 * disk is full, which the log says. */
static void errors_of_log(void *user, int32_t level, const char *message)
{
    if (level == MR_LOG_ERROR && strstr(message, "no space left") != NULL)
        __atomic_add_fetch((int *)user, 1, __ATOMIC_RELAXED);
}

static void check_end(const char *path, const char *end)
{
    char text[64] = "";
    size_t n = strlen(end);
    FILE *f = fopen(path, "r");
    CHECK(f != NULL && fseek(f, -(long)n, SEEK_END) == 0 && fread(text, 1, n, f) == n);
    CHECK(strcmp(text, end) == 0);
    if (f != NULL)
        fclose(f);
    unlink(path);
}

static void newer_options(void)
{
    mr_engine_options o = MR_ENGINE_OPTIONS_INIT;
    mr_plan plan = MR_PLAN_INIT, half = MR_PLAN_INIT;
    char trace[4096], routing[4096], text[8192];
    int errors = 0;
    struct stat found;
    snprintf(trace, sizeof trace, "%s/trace.json", directory);
    snprintf(routing, sizeof routing, "%s/routing", directory);
    o.context_tokens_max = 128;
    STATUS(mr_plan_make("mr:tiny", &o, NULL, &plan), MR_OK);
    CHECK(strcmp(plan.kv_type, "f32") == 0 && plan.dense_layers == 6 && plan.dense_bytes > 0);
    o.kv_type = "f16";
    STATUS(mr_plan_make("mr:tiny", &o, NULL, &half), MR_OK);
    CHECK(strcmp(half.kv_type, "f16") == 0 && half.kv_bytes * 2 == plan.kv_bytes);
    o.kv_tokens_max = 256;
    STATUS(mr_plan_make("mr:tiny", &o, NULL, &half), MR_OK);
    CHECK(half.kv_tokens == 256 && plan.kv_tokens > 256);
    o.verify = "always";
    o.policy = "lru";
    o.io_timeout_ms = 30000;
    o.log = errors_of_log;
    o.log_user = &errors;
    for (int full = 0; full < 2; full++) {
        mr_engine *e = NULL;
        o.trace = full ? "/dev/full" : trace;
        o.routing_trace = routing;
        STATUS(mr_engine_open(&e, "mr:tiny", &o), MR_OK);
        mr_session *s = open_session(e, 8);
        STATUS(mr_session_feed(s, "func", 4), MR_OK);
        mr_engine_close(e);
        CHECK(generate(s, text, sizeof text) == MR_END && text[0] != '\0');
        mr_session_close(s);
        CHECK(errors == full);
        CHECK(stat(routing, &found) == 0 && found.st_size > 50);
        unlink(routing);
        if (!full)
            check_end(trace, "\n]}\n");
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    model = argv[1];
    directory = argv[2];
    quiet_begin();
    mr_engine_close(open_engine(1)); /* the runtime opens what it keeps */
    int before = descriptors();
    null_everywhere();
    closed_handles();
    struct_sizes();
    senseless();
    two_threads_on_one_session();
    closed_while_looked_at();
    cancel_during_open();
    cancel_and_close_during_generate();
    file_goes_away();
    save_and_restore();
    batches();
    batch_woken_and_closed();
    job_files();
    newer_options();
    forked();
    environment();
    logging();
    CHECK(descriptors() == before);
    quiet_end();
    if (check_failures == 0)
        puts("ok");
    fflush(stdout); /* the leak check ends the program before exit does */
    return check_failures != 0;
}
