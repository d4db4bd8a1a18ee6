/* shim.c - the functions of moering.h. This side checks pointers, versions structs, keeps each
 * thread's last error, and refuses calls after fork(); the rest is in Go (_cgo_export.h). */
#define _GNU_SOURCE
#include "shim.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "_cgo_export.h"

/* ---- Process and thread ---------------------------------------------------------------------- */

static atomic_int forked; /* this process is a fork's child: the Go runtime has no threads here */
static pthread_key_t thread_key;    /* frees what belongs to a thread at the thread's end */
static atomic_int thread_key_ready; /* keys are few: there may be none */

/* Memory of a handle that was closed by another thread than the one that it was lent to. */
typedef struct lent {
    struct lent *next;
    void *memory;
} lent;

typedef struct thread {
    mri_failure failure; /* first: its address is the thread's */
    struct thread *next;
    _Atomic(lent *) lent; /* which its next call frees */
} thread;

static pthread_mutex_t threads_lock = PTHREAD_MUTEX_INITIALIZER; /* not taken in a fork's child */
static thread *threads;

/* One pointer, since thread-local memory of a library that is loaded late is scarce. */
static _Thread_local thread *self;

static void free_lent(thread *t)
{
    lent *l = atomic_exchange(&t->lent, NULL);
    while (l != NULL) {
        lent *next = l->next;
        free(l->memory);
        free(l);
        l = next;
    }
}

static void free_thread(void *p)
{
    thread *t = p, **at = &threads;
    self = NULL;
    if (atomic_load(&forked))
        return;
    pthread_mutex_lock(&threads_lock);
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    pthread_mutex_unlock(&threads_lock);
    free_lent(t);
    free(t);
}

void mri_release(mri_failure *borrower, void *memory)
{
    thread *t = (thread *)borrower, *known;
    lent *l;
    if (t == self) {
        free(memory);
        return;
    }
    if (memory == NULL || (l = malloc(sizeof *l)) == NULL)
        return; /* rather lost than another's while it is looked at */
    l->memory = memory;
    pthread_mutex_lock(&threads_lock);
    for (known = threads; known != NULL && known != t;)
        known = known->next;
    if (known != NULL) {
        l->next = atomic_load(&t->lent);
        while (!atomic_compare_exchange_weak(&t->lent, &l->next, l))
            ;
    }
    pthread_mutex_unlock(&threads_lock);
    if (known == NULL) { /* that thread has ended */
        free(memory);
        free(l);
    }
}

void mri_lend(void *memory)
{
    lent *l;
    if (memory == NULL || (l = malloc(sizeof *l)) == NULL)
        return; /* rather lost than freed while it is looked at */
    l->memory = memory;
    l->next = atomic_load(&self->lent);
    while (!atomic_compare_exchange_weak(&self->lent, &l->next, l))
        ;
}

static void note_fork(void) { atomic_store(&forked, 1); }

__attribute__((constructor)) static void load(void)
{
    pthread_atfork(NULL, NULL, note_fork);
    if (pthread_key_create(&thread_key, free_thread) == 0)
        atomic_store(&thread_key_ready, 1);
}

/* This thread's failure; NULL if there is no memory for one. */
static mri_failure *own_failure(void)
{
    if (self == NULL && (self = calloc(1, sizeof *self)) != NULL) {
        self->failure.offset = -1;
        if (!atomic_load(&forked)) {
            pthread_mutex_lock(&threads_lock);
            self->next = threads;
            threads = self;
            pthread_mutex_unlock(&threads_lock);
            if (atomic_load(&thread_key_ready))
                pthread_setspecific(thread_key, self);
        }
    }
    return self == NULL ? NULL : &self->failure;
}

static mr_status fail(mr_status status, const char *format, ...)
{
    mri_failure *f = own_failure();
    va_list arguments;
    if (f == NULL)
        return status;
    f->status = status;
    va_start(arguments, format);
    vsnprintf(f->message, sizeof f->message, format, arguments);
    va_end(arguments);
    return status;
}

/* Begins a call: forgets the last failure, and refuses to go on in a forked child. */
static mr_status begin(mri_failure **out)
{
    mri_failure *f = own_failure();
    *out = f;
    if (f == NULL)
        return MR_ENOMEM;
    f->status = MR_OK;
    f->offset = -1;
    f->line = 0;
    f->message[0] = f->file[0] = f->tensor[0] = '\0';
    if (atomic_load(&forked))
        return fail(MR_EFORK, "this process was forked after the library was loaded; fork before "
                              "loading it, or start the process anew (exec, or spawn in Python)");
    if (atomic_load_explicit(&self->lent, memory_order_relaxed) != NULL)
        free_lent(self);
    return MR_OK;
}

/* Every function that returns a status starts so; f is its failure. */
#define BEGIN()                        \
    mri_failure *f;                    \
    do {                               \
        mr_status status_ = begin(&f); \
        if (status_ < 0)               \
            return status_;            \
    } while (0)

#define REQUIRE(pointer)                                   \
    do {                                                   \
        if ((pointer) == NULL)                             \
            return fail(MR_EINVAL, "%s is NULL", #pointer); \
    } while (0)

/* An array may be NULL if it is empty. */
#define REQUIRE_ARRAY(pointer, count)                                                   \
    do {                                                                                \
        if ((pointer) == NULL && (count) != 0)                                          \
            return fail(MR_EINVAL, "%s is NULL, and %s is not 0", #pointer, #count);     \
    } while (0)

static uint64_t number(const void *handle) { return (uint64_t)(uintptr_t)handle; }

/* ---- Versioned structs ----------------------------------------------------------------------- */

enum { STRUCT_BYTES_LEAST = sizeof(uint32_t), STRUCT_BYTES_MOST = 4096 };

static uint32_t size_of(const void *versioned) { return *(const uint32_t *)versioned; }

static mr_status check_size(const void *versioned, const char *name)
{
    uint32_t size = size_of(versioned);
    if (size < STRUCT_BYTES_LEAST || size > STRUCT_BYTES_MOST)
        return fail(MR_EINVAL, "%s->struct_size is %u: begin with the MR_..._INIT of the struct",
                    name, (unsigned)size);
    return MR_OK;
}

/* Copies the caller's options, of whatever version, into full, whose struct_size is set. */
static mr_status take_struct(void *full, const void *options, const char *name)
{
    uint32_t known = size_of(full), given;
    if (options == NULL)
        return MR_OK;
    if (check_size(options, name) < 0)
        return MR_EINVAL;
    given = size_of(options);
    for (uint32_t i = known; i < given; i++)
        if (((const unsigned char *)options)[i] != 0)
            return fail(MR_EINVAL, "%s is of a newer version than this library, and sets what it "
                                   "does not know: byte %u of %u", name, (unsigned)i,
                        (unsigned)given);
    memcpy(full, options, given < known ? given : known);
    memcpy(full, &known, sizeof known);
    return MR_OK;
}

/* Copies full to the caller's struct, as much of it as that has, and zeros what full does not
 * have. */
static void give_struct(void *out, const void *full)
{
    uint32_t known = size_of(full), given = size_of(out);
    uint32_t both = known < given ? known : given;
    memcpy((char *)out + sizeof given, (const char *)full + sizeof given, both - sizeof given);
    memset((char *)out + both, 0, given - both);
}

/* ---- Callbacks ------------------------------------------------------------------------------- */

void mri_call_log(mr_log_fn log, void *user, int32_t level, const char *message)
{
    log(user, level, message);
}

int32_t mri_call_poll(mr_poll_fn poll, void *user, uint64_t done, uint64_t total)
{
    return poll(user, done, total);
}

int32_t mri_call_write(mr_write_fn write, void *user, const void *data, size_t data_size)
{
    return write(user, data, data_size);
}

int64_t mri_call_read(mr_read_fn read, void *user, void *data, size_t data_capacity)
{
    return read(user, data, data_capacity);
}

int32_t mri_call_job(mr_job_fn progress, void *user, const mr_job_progress *now)
{
    return progress(user, now);
}

/* ---- Version and errors ---------------------------------------------------------------------- */

uint32_t mr_api_version(void) { return MR_API_VERSION; }

static char build_info[256];
static pthread_once_t build_info_once = PTHREAD_ONCE_INIT;

static void make_build_info(void) { mri_build_info(build_info, sizeof build_info); }

const char *mr_build_info(void)
{
    if (atomic_load(&forked))
        return build_info; /* empty, unless it was asked for before */
    pthread_once(&build_info_once, make_build_info);
    return build_info;
}

const char *mr_status_name(mr_status status)
{
    switch (status) {
    case MR_OK: return "MR_OK";
    case MR_END: return "MR_END";
    case MR_AGAIN: return "MR_AGAIN";
    case MR_EINVAL: return "MR_EINVAL";
    case MR_ENOMEM: return "MR_ENOMEM";
    case MR_EIO: return "MR_EIO";
    case MR_EFORMAT: return "MR_EFORMAT";
    case MR_EDEVICE: return "MR_EDEVICE";
    case MR_ECANCELED: return "MR_ECANCELED";
    case MR_ELIMIT: return "MR_ELIMIT";
    case MR_EUNSUPPORTED: return "MR_EUNSUPPORTED";
    case MR_EINTERNAL: return "MR_EINTERNAL";
    case MR_EBUSY: return "MR_EBUSY";
    case MR_ECLOSED: return "MR_ECLOSED";
    case MR_EFORK: return "MR_EFORK";
    }
    return "an unknown status";
}

const char *mr_last_error(void)
{
    mri_failure *f = own_failure();
    return f == NULL ? "no memory" : f->message;
}

mr_status mr_last_error_detail(mr_error *out)
{
    mri_failure *f = own_failure();
    mr_error full = MR_ERROR_INIT;
    if (out == NULL || f == NULL)
        return out == NULL ? MR_EINVAL : MR_ENOMEM;
    if (size_of(out) < STRUCT_BYTES_LEAST || size_of(out) > STRUCT_BYTES_MOST)
        return MR_EINVAL;
    full.status = f->status;
    full.message = f->message;
    full.file = f->file;
    full.tensor = f->tensor;
    full.offset = f->offset;
    full.line = f->line;
    give_struct(out, &full);
    return MR_OK;
}

/* ---- Engine ---------------------------------------------------------------------------------- */

/* A whole number of decimal digits from the environment; 0 where there is none. */
static uint64_t number_from_environment(const char *name)
{
    const char *text = getenv(name);
    char *end = NULL;
    unsigned long long value;
    if (text == NULL || text[0] < '0' || text[0] > '9')
        return 0;
    value = strtoull(text, &end, 10);
    return *end == '\0' ? value : 0;
}

static mr_status take_engine_options(mr_engine_options *full, const mr_engine_options *options)
{
    if (take_struct(full, options, "options") < 0)
        return MR_EINVAL;
    if (full->device == NULL)
        full->device = getenv("MOERING_DEVICE");
    if (full->threads == 0)
        full->threads = (int32_t)number_from_environment("MOERING_THREADS");
    if (full->host_bytes_max == 0)
        full->host_bytes_max = number_from_environment("MOERING_HOST_BYTES_MAX");
    return MR_OK;
}

mr_status mr_engine_open(mr_engine **out, const char *path, const mr_engine_options *options)
{
    BEGIN();
    mr_engine_options full = MR_ENGINE_OPTIONS_INIT;
    uint64_t handle = 0;
    REQUIRE(out);
    *out = NULL;
    REQUIRE(path);
    if (take_engine_options(&full, options) < 0)
        return MR_EINVAL;
    mr_status status = mri_engine_open(&handle, (char *)path, &full, f);
    *out = (mr_engine *)(uintptr_t)handle;
    return status;
}

void mr_engine_close(mr_engine *engine)
{
    if (engine != NULL && !atomic_load(&forked))
        mri_engine_close(number(engine));
}

void mr_engine_cancel(mr_engine *engine)
{
    if (engine != NULL && !atomic_load(&forked))
        mri_engine_cancel(number(engine));
}

mr_status mr_plan_make(const char *path, const mr_engine_options *options, mr_model_info *info_out,
                       mr_plan *plan_out)
{
    BEGIN();
    mr_engine_options full = MR_ENGINE_OPTIONS_INIT;
    mr_model_info info = MR_MODEL_INFO_INIT;
    mr_plan plan = MR_PLAN_INIT;
    REQUIRE(path);
    if (take_engine_options(&full, options) < 0)
        return MR_EINVAL;
    if (info_out != NULL && check_size(info_out, "info_out") < 0)
        return MR_EINVAL;
    if (plan_out != NULL && check_size(plan_out, "plan_out") < 0)
        return MR_EINVAL;
    mr_status status = mri_plan_make((char *)path, &full, &info, &plan, f);
    if (status >= 0 && info_out != NULL)
        give_struct(info_out, &info);
    if (status >= 0 && plan_out != NULL)
        give_struct(plan_out, &plan);
    return status;
}

/* A function that fills one struct. */
#define GETTER(name, handle_type, struct_type, init)         \
    mr_status mr_##name(handle_type *handle, struct_type *out) \
    {                                                        \
        BEGIN();                                             \
        struct_type full = init;                             \
        REQUIRE(handle);                                     \
        REQUIRE(out);                                        \
        if (check_size(out, "out") < 0)                      \
            return MR_EINVAL;                                \
        mr_status status = mri_##name(number(handle), &full, f); \
        if (status == MR_OK)                                 \
            give_struct(out, &full);                         \
        return status;                                       \
    }

GETTER(engine_info, mr_engine, mr_model_info, MR_MODEL_INFO_INIT)
GETTER(engine_plan, mr_engine, mr_plan, MR_PLAN_INIT)
GETTER(engine_stats, mr_engine, mr_stats, MR_STATS_INIT)
GETTER(session_token, mr_session, mr_token, MR_TOKEN_INIT)
GETTER(batch_next, mr_batch, mr_result, MR_RESULT_INIT)

/* ---- Text and tokens ------------------------------------------------------------------------- */

mr_status mr_engine_encode(mr_engine *engine, const char *text, size_t text_size, uint32_t flags,
                           int32_t *ids, size_t ids_capacity, size_t *ids_count_out)
{
    BEGIN();
    REQUIRE(engine);
    REQUIRE_ARRAY(text, text_size);
    REQUIRE_ARRAY(ids, ids_capacity);
    REQUIRE(ids_count_out);
    return mri_engine_encode(number(engine), (char *)text, text_size, flags, ids, ids_capacity,
                             ids_count_out, f);
}

mr_status mr_engine_decode(mr_engine *engine, const int32_t *ids, size_t ids_count, uint32_t flags,
                           char *text, size_t text_capacity, size_t *text_size_out)
{
    BEGIN();
    REQUIRE(engine);
    REQUIRE_ARRAY(ids, ids_count);
    REQUIRE_ARRAY(text, text_capacity);
    REQUIRE(text_size_out);
    return mri_engine_decode(number(engine), (int32_t *)ids, ids_count, flags, text, text_capacity,
                             text_size_out, f);
}

mr_status mr_engine_token(mr_engine *engine, int32_t id, char *bytes, size_t bytes_capacity,
                          size_t *bytes_size_out, uint32_t *flags_out)
{
    BEGIN();
    REQUIRE(engine);
    REQUIRE_ARRAY(bytes, bytes_capacity);
    REQUIRE(bytes_size_out);
    return mri_engine_token(number(engine), id, bytes, bytes_capacity, bytes_size_out, flags_out,
                            f);
}

mr_status mr_engine_find_token(mr_engine *engine, const char *spelled, int32_t *id_out)
{
    BEGIN();
    REQUIRE(engine);
    REQUIRE(spelled);
    REQUIRE(id_out);
    return mri_engine_find_token(number(engine), (char *)spelled, id_out, f);
}

static mr_status check_messages(const mr_message *messages, size_t messages_count)
{
    for (size_t i = 0; i < messages_count; i++)
        if (messages[i].role == NULL || messages[i].content == NULL)
            return fail(MR_EINVAL, "messages[%zu] has a NULL role or content", i);
    return MR_OK;
}

mr_status mr_engine_chat_text(mr_engine *engine, const mr_message *messages, size_t messages_count,
                              char *text, size_t text_capacity, size_t *text_size_out)
{
    BEGIN();
    REQUIRE(engine);
    REQUIRE_ARRAY(messages, messages_count);
    REQUIRE_ARRAY(text, text_capacity);
    REQUIRE(text_size_out);
    if (check_messages(messages, messages_count) < 0)
        return MR_EINVAL;
    return mri_engine_chat_text(number(engine), (mr_message *)messages, messages_count, text,
                                text_capacity, text_size_out, f);
}

mr_status mr_engine_chat_tokens(mr_engine *engine, const mr_message *messages,
                                size_t messages_count, int32_t *ids, size_t ids_capacity,
                                size_t *ids_count_out)
{
    BEGIN();
    REQUIRE(engine);
    REQUIRE_ARRAY(messages, messages_count);
    REQUIRE_ARRAY(ids, ids_capacity);
    REQUIRE(ids_count_out);
    if (check_messages(messages, messages_count) < 0)
        return MR_EINVAL;
    return mri_engine_chat_tokens(number(engine), (mr_message *)messages, messages_count, ids,
                                  ids_capacity, ids_count_out, f);
}

mr_status mr_engine_embed(mr_engine *engine, const int32_t *ids, size_t ids_count, int32_t pooling,
                          float *values, size_t values_capacity, size_t *values_count_out)
{
    BEGIN();
    REQUIRE(engine);
    REQUIRE_ARRAY(ids, ids_count);
    REQUIRE_ARRAY(values, values_capacity);
    REQUIRE(values_count_out);
    return mri_engine_embed(number(engine), (int32_t *)ids, ids_count, pooling, values,
                            values_capacity, values_count_out, f);
}

/* ---- Session --------------------------------------------------------------------------------- */

mr_status mr_session_open(mr_session **out, mr_engine *engine, const mr_session_options *options)
{
    BEGIN();
    mr_session_options full = MR_SESSION_OPTIONS_INIT;
    uint64_t handle = 0;
    REQUIRE(out);
    *out = NULL;
    REQUIRE(engine);
    if (take_struct(&full, options, "options") < 0)
        return MR_EINVAL;
    mr_status status = mri_session_open(&handle, number(engine), &full, f);
    *out = (mr_session *)(uintptr_t)handle;
    return status;
}

void mr_session_close(mr_session *session)
{
    if (session != NULL && !atomic_load(&forked))
        mri_session_close(number(session));
}

void mr_session_cancel(mr_session *session)
{
    if (session != NULL && !atomic_load(&forked))
        mri_session_cancel(number(session));
}

mr_status mr_session_configure(mr_session *session, const mr_session_options *options)
{
    BEGIN();
    mr_session_options full = MR_SESSION_OPTIONS_INIT;
    REQUIRE(session);
    if (take_struct(&full, options, "options") < 0)
        return MR_EINVAL;
    return mri_session_configure(number(session), &full, f);
}

mr_status mr_session_feed(mr_session *session, const char *text, size_t text_size)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE_ARRAY(text, text_size);
    return mri_session_feed(number(session), (char *)text, text_size, f);
}

mr_status mr_session_feed_tokens(mr_session *session, const int32_t *ids, size_t ids_count)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE_ARRAY(ids, ids_count);
    return mri_session_feed_tokens(number(session), (int32_t *)ids, ids_count, f);
}

mr_status mr_session_score(mr_session *session, const int32_t *ids, size_t ids_count,
                           float *logprobs)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE_ARRAY(ids, ids_count);
    REQUIRE_ARRAY(logprobs, ids_count);
    return mri_session_score(number(session), (int32_t *)ids, ids_count, logprobs, f);
}

mr_status mr_session_next(mr_session *session, const char **text_out, size_t *text_size_out)
{
    BEGIN();
    REQUIRE(text_out);
    REQUIRE(text_size_out);
    *text_out = "";
    *text_size_out = 0;
    REQUIRE(session);
    return mri_session_next(number(session), (char **)text_out, text_size_out, f);
}

mr_status mr_session_length(mr_session *session, size_t *count_out)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE(count_out);
    return mri_session_length(number(session), count_out, f);
}

mr_status mr_session_tokens(mr_session *session, int32_t *ids, size_t ids_capacity,
                            size_t *ids_count_out)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE_ARRAY(ids, ids_capacity);
    REQUIRE(ids_count_out);
    return mri_session_tokens(number(session), ids, ids_capacity, ids_count_out, f);
}

mr_status mr_session_logits(mr_session *session, const float **logits_out, size_t *count_out)
{
    BEGIN();
    REQUIRE(logits_out);
    REQUIRE(count_out);
    *logits_out = NULL;
    *count_out = 0;
    REQUIRE(session);
    return mri_session_logits(number(session), (float **)logits_out, count_out, f);
}

mr_status mr_session_top(mr_session *session, mr_token_prob *top, size_t count, size_t *count_out)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE_ARRAY(top, count);
    REQUIRE(count_out);
    return mri_session_top(number(session), top, count, count_out, f);
}

mr_status mr_session_truncate(mr_session *session, size_t count)
{
    BEGIN();
    REQUIRE(session);
    return mri_session_truncate(number(session), count, f);
}

mr_status mr_session_fork(mr_session **out, mr_session *session)
{
    BEGIN();
    uint64_t handle = 0;
    REQUIRE(out);
    *out = NULL;
    REQUIRE(session);
    mr_status status = mri_session_fork(&handle, number(session), f);
    *out = (mr_session *)(uintptr_t)handle;
    return status;
}

mr_status mr_session_save(mr_session *session, const char *path)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE(path);
    return mri_session_save(number(session), (char *)path, f);
}

mr_status mr_session_save_to(mr_session *session, mr_write_fn write, void *user)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE(write);
    return mri_session_save_to(number(session), write, user, f);
}

mr_status mr_session_restore(mr_session *session, const char *path)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE(path);
    return mri_session_restore(number(session), (char *)path, f);
}

mr_status mr_session_restore_from(mr_session *session, mr_read_fn read, void *user)
{
    BEGIN();
    REQUIRE(session);
    REQUIRE(read);
    return mri_session_restore_from(number(session), read, user, f);
}

/* ---- Batch ----------------------------------------------------------------------------------- */

mr_status mr_batch_open(mr_batch **out, mr_engine *engine, const mr_session_options *options,
                        uint32_t parallel)
{
    BEGIN();
    mr_session_options full = MR_SESSION_OPTIONS_INIT;
    uint64_t handle = 0;
    REQUIRE(out);
    *out = NULL;
    REQUIRE(engine);
    if (take_struct(&full, options, "options") < 0)
        return MR_EINVAL;
    mr_status status = mri_batch_open(&handle, number(engine), &full, parallel, f);
    *out = (mr_batch *)(uintptr_t)handle;
    return status;
}

mr_status mr_batch_submit(mr_batch *batch, uint64_t id, const char *text, size_t text_size)
{
    BEGIN();
    REQUIRE(batch);
    REQUIRE_ARRAY(text, text_size);
    return mri_batch_submit(number(batch), id, (char *)text, text_size, f);
}

mr_status mr_batch_submit_tokens(mr_batch *batch, uint64_t id, const int32_t *ids, size_t ids_count)
{
    BEGIN();
    REQUIRE(batch);
    REQUIRE_ARRAY(ids, ids_count);
    return mri_batch_submit_tokens(number(batch), id, (int32_t *)ids, ids_count, f);
}

void mr_batch_cancel(mr_batch *batch)
{
    if (batch != NULL && !atomic_load(&forked))
        mri_batch_cancel(number(batch));
}

void mr_batch_wake(mr_batch *batch)
{
    if (batch != NULL && !atomic_load(&forked))
        mri_batch_wake(number(batch));
}

void mr_batch_close(mr_batch *batch)
{
    if (batch != NULL && !atomic_load(&forked))
        mri_batch_close(number(batch));
}

/* Submits as much as the queue takes, hands on one result, and so on to the end. */
static mr_status run_batch(mr_batch *batch, const char *const *texts, const size_t *sizes,
                           size_t count, mr_result_fn result, void *user)
{
    size_t submitted = 0, done = 0;
    for (;;) {
        mr_status status = MR_OK;
        mr_result r = MR_RESULT_INIT;
        while (submitted < count) {
            const char *text = texts[submitted];
            size_t size = sizes != NULL ? sizes[submitted] : strlen(text);
            status = mr_batch_submit(batch, submitted, text, size);
            if (status != MR_OK)
                break;
            submitted++;
        }
        if (status < 0)
            return status;
        status = mr_batch_next(batch, &r);
        if (status != MR_OK)
            return status == MR_END ? MR_OK : status;
        if (result(user, &r, ++done, count) != 0)
            return fail(MR_ECANCELED, "cancelled by the result callback after %zu of %zu prompts",
                        done, count);
    }
}

mr_status mr_engine_batch(mr_engine *engine, const mr_session_options *options,
                          const char *const *texts, const size_t *sizes, size_t count,
                          mr_result_fn result, void *user)
{
    mr_batch *batch = NULL;
    {
        BEGIN();
        (void)f;
        REQUIRE(engine);
        REQUIRE_ARRAY(texts, count);
        REQUIRE(result);
        for (size_t i = 0; i < count; i++)
            if (texts[i] == NULL && (sizes == NULL || sizes[i] != 0))
                return fail(MR_EINVAL, "texts[%zu] is NULL", i);
    }
    mr_status status = mr_batch_open(&batch, engine, options, 0);
    if (status < 0)
        return status;
    status = run_batch(batch, texts, sizes, count, result, user);
    mr_batch_close(batch);
    return status;
}

/* ---- Job files ------------------------------------------------------------------------------- */

mr_status mr_job_run(const char *path, const mr_engine_options *engine_options,
                     const mr_job_options *options, mr_job_result *result_out)
{
    BEGIN();
    mr_engine_options full = MR_ENGINE_OPTIONS_INIT;
    mr_job_options job = MR_JOB_OPTIONS_INIT;
    mr_job_result result = MR_JOB_RESULT_INIT;
    REQUIRE(path);
    REQUIRE(options);
    if (result_out != NULL && check_size(result_out, "result_out") < 0)
        return MR_EINVAL;
    result.output = result.errors = result.journal = "";
    if (result_out != NULL)
        give_struct(result_out, &result);
    if (take_engine_options(&full, engine_options) < 0 || take_struct(&job, options, "options") < 0)
        return MR_EINVAL;
    REQUIRE_ARRAY(job.model_names, job.model_names_count);
    mr_status status = mri_job_run((char *)path, &full, &job, &result, f);
    if (result_out != NULL)
        give_struct(result_out, &result);
    return status;
}
