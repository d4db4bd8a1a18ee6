/* moering.h - C API of Moering. This header is the reference; libmoering exports nothing else.
 *
 * Moering runs language models that may be larger than memory: expert weights stream from disk.
 *
 *     mr_engine *engine = NULL;
 *     mr_session *session = NULL;
 *     const char *text = NULL;
 *     size_t size = 0;
 *     if (mr_engine_open(&engine, "mr:tiny", NULL) < 0 ||
 *         mr_session_open(&session, engine, NULL) < 0 ||
 *         mr_session_feed(session, "package main", 12) < 0)
 *         fprintf(stderr, "%s\n", mr_last_error());
 *     while (mr_session_next(session, &text, &size) == MR_OK)
 *         fwrite(text, 1, size, stdout);
 *     mr_session_close(session);
 *     mr_engine_close(engine);
 *
 * Errors    Calls that can fail return mr_status: >= 0 success, < 0 failure. On failure
 *           mr_last_error() describes it, for this thread, until this thread's next mr_ call that
 *           returns mr_status.
 * Order     A constructor's **out comes first; elsewhere: handle, inputs, outputs.
 * Ownership A `**out` handle is the caller's, freed by the matching _close; on failure *out is
 *           NULL. Handles close in any order: an engine lives until its sessions and batches are
 *           gone. A pointer that a call gives out is borrowed until the next call on the same
 *           handle, unless it says otherwise; where another thread closes the handle, until this
 *           thread's next mr_ call. Where a call fills the caller's buffer, *count_out
 *           (or *size_out) is what the whole takes; if that is more than the capacity, the call
 *           returns MR_ELIMIT and the buffer holds nothing of use. A NULL buffer with a capacity
 *           of 0 asks for the size.
 * Handles   are numbers in a pointer's clothes: not to be dereferenced. One that is closed, or of
 *           another kind, is refused with MR_ECLOSED.
 * Threads   mr_engine: any thread, concurrently. mr_session and mr_batch: one thread at a time,
 *           any; a second one is refused with MR_EBUSY. The _cancel, _wake and _close calls are
 *           for any thread at any time; _close ends the call that is running, which returns
 *           MR_ECLOSED.
 * Process   Loading starts a Go runtime. After fork() without exec every call in the child is
 *           refused with MR_EFORK. dlclose() does not unload. Signal handlers are to be installed
 *           with SA_ONSTACK. The library writes to stdout and stderr never, installs no signal
 *           handler of its own beyond the Go runtime's, and reads the environment with getenv() at
 *           mr_engine_open: MOERING_DEVICE, MOERING_THREADS and MOERING_HOST_BYTES_MAX stand in
 *           for options that are 0 or NULL.
 * Text      UTF-8 throughout. Sizes are in bytes and do not count a NUL; text that is given out is
 *           followed by one all the same.
 * Versions  MINOR grows with additions, MAJOR with breaks (before 1.0: MINOR too); all in
 *           docs/capi-changes.md. Structs with struct_size grow at their end; the library takes
 *           shorter ones from older programs, and longer ones as long as what it does not know is
 *           0. */
#ifndef MOERING_H
#define MOERING_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#define MR_API __attribute__((visibility("default")))
#define MR_VERSION(major, minor) ((uint32_t)(major) << 16 | (uint32_t)(minor))
#define MR_API_VERSION MR_VERSION(0, 1)

/* Version of the loaded library; compare with MR_API_VERSION. */
MR_API uint32_t mr_api_version(void);
/* One line: version, revision, compiler, system. Static. */
MR_API const char *mr_build_info(void);

/* ---- Status ---------------------------------------------------------------------------------- */

typedef int32_t mr_status; /* fixed width on purpose: enums are not */
enum {
    MR_OK = 0,
    MR_END = 1,           /* there is no more: the generation, or the batch, is finished */
    MR_AGAIN = 2,         /* the batch's queue is full: take a result first */
    MR_EINVAL = -1,       /* an argument makes no sense */
    MR_ENOMEM = -2,       /* the budget is too small (the message says the least), or no memory */
    MR_EIO = -3,          /* the system could not give or take the bytes of a file */
    MR_EFORMAT = -4,      /* a file is damaged or malformed */
    MR_EDEVICE = -5,      /* the compute device failed */
    MR_ECANCELED = -6,    /* the call was cancelled; calling again goes on where it stopped */
    MR_ELIMIT = -7,       /* context, KV cache, number of sessions, or caller's buffer too small */
    MR_EUNSUPPORTED = -8, /* a model, format or device that this build does not run */
    MR_EINTERNAL = -9,    /* a defect of the library */
    MR_EBUSY = -10,       /* another thread is in a call on the handle */
    MR_ECLOSED = -11,     /* the handle was closed, or is none of this kind */
    MR_EFORK = -12        /* this process was forked from one that had loaded the library */
};
/* "MR_EINVAL" and so on; static; never NULL. */
MR_API const char *mr_status_name(mr_status status);
/* This thread's last failure in words; "" after a success; never NULL. */
MR_API const char *mr_last_error(void);

typedef struct mr_error {
    uint32_t struct_size;
    mr_status status;    /* MR_OK if this thread's last call did not fail */
    const char *message; /* never NULL; strings are valid as long as mr_last_error()'s */
    const char *file;    /* path of the file concerned, a model's or a job's; "" if none is */
    const char *tensor;  /* name of the tensor concerned; "" if none is */
    int64_t offset;      /* byte offset in file; -1 if no one place is concerned */
    int64_t line;        /* of a job's input, counted from 1; 0 if no one line is concerned */
} mr_error;
#define MR_ERROR_INIT { sizeof(mr_error), 0, NULL, NULL, NULL, 0, 0 }
/* Fills *out with this thread's last failure, and leaves that in place. */
MR_API mr_status mr_last_error_detail(mr_error *out);

/* ---- Engine ---------------------------------------------------------------------------------- */

typedef struct mr_engine mr_engine;   /* an open model and its memory */
typedef struct mr_session mr_session; /* one sequence: KV cache, sampler, position */
typedef struct mr_batch mr_batch;     /* many prompts, generated for side by side */

/* Log lines, on any thread, one at a time; no mr_ calls inside. The message is valid during the
 * call. */
typedef void (*mr_log_fn)(void *user, int32_t level, const char *message);
enum { MR_LOG_DEBUG = -4, MR_LOG_INFO = 0, MR_LOG_WARN = 4, MR_LOG_ERROR = 8 };

/* Called on the thread of a call that blocks, 50 times a second or so. done and total say how
 * far the call is: bytes of mr_engine_open, 0 and 0 where that is unknown. A result other than 0
 * cancels the call, which returns MR_ECANCELED. Inside, no mr_ call but _cancel. */
typedef int32_t (*mr_poll_fn)(void *user, uint64_t done, uint64_t total);

enum { MR_AUTO = 0, MR_ON = 1, MR_OFF = 2 };

/* Fill with MR_*_INIT, then set fields; 0 or NULL means the documented default. Append only. */
typedef struct mr_engine_options {
    uint32_t struct_size;        /* sizeof(mr_engine_options) as the caller compiled it */
    int32_t threads;             /* that compute; default: one a processor */
    uint64_t host_bytes_max;     /* all that is held in RAM; default: 3/4 of what is available */
    uint64_t device_bytes_max;   /* on a device with memory of its own; default: 9/10 of it */
    const char *device;          /* "cpu"; "cuda" (the first GPU), "cuda:1", "cuda:GPU-UUID";
                                  * "ref" (slow, float64); default: the best */
    uint32_t context_tokens_max; /* longest sequence; default: the model's, but at most 4096 */
    uint32_t sequences_max;      /* sessions open at once; default: 8 */
    uint32_t chunk_tokens_max;   /* tokens of a pass; default: chosen from the budget */
    uint32_t sections;           /* of the ring; default: chosen */
    int32_t prefetch;            /* MR_AUTO, MR_ON, MR_OFF: read experts ahead */
    int32_t direct_io;           /* MR_AUTO, MR_ON, MR_OFF: bypass the page cache */
    int32_t exact;               /* not 0: float32 activations with block-quantised weights */
    int32_t log_level;           /* least level that is logged; default: MR_LOG_INFO */
    int32_t cpu_experts;         /* not 0: beside a GPU, experts in RAM are computed on the processor
                                  * where moving them takes longer; last bits depend on the split */
    int32_t half_activations;    /* not 0: on a GPU, activations are rounded to bfloat16 for F16 and
                                  * BF16 weights: a third of the work; any other device refuses it */
    const char *reader;          /* "uring", "pread"; default: the better one */
    const char *policy;          /* of the expert cache: "reuse", "lfu", "tinylfu", "stale", "lru",
                                  * "clock"; default: chosen */
    uint64_t kv_tokens_max;      /* of all sequences, whose keys and values have memory; default:
                                  * chosen, at most sequences_max of the longest */
    const char *kv_type;         /* keys and values: "f32", rounded "f16", "q8_0"; default: f32 */
    const char *verify;          /* checksums of a packed model: "always" (at every read),
                                  * "first" (of a group), "off"; default: always */
    const char *cublaslt;        /* NVIDIA's library for large 16-bit products on a GPU: "off",
                                  * "faster" (where it is), "always"; default: off */
    uint64_t io_timeout_ms;      /* a read that takes longer is MR_EIO; default: a minute */
    const char *trace;           /* path of a timeline to write, for Perfetto; default: none */
    const char *routing_trace;   /* path for the experts that each token used; default: none. Both
                                  * files are complete once the engine is freed */
    mr_log_fn log;               /* default: silent */
    void *log_user;
    mr_poll_fn poll;             /* for mr_engine_open and every later call on this engine */
    void *poll_user;
    const int32_t *open_cancel;  /* not 0 ends mr_engine_open; any thread may set it meanwhile */
} mr_engine_options;
#define MR_ENGINE_OPTIONS_INIT \
    { sizeof(mr_engine_options), 0, 0, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, NULL, NULL, \
      NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL }

typedef struct mr_model_info {
    uint32_t struct_size;
    uint32_t layers;
    uint32_t dim; /* of a hidden state, and of an embedding */
    uint32_t vocabulary;
    uint32_t context_tokens; /* as the model states it */
    uint32_t experts;        /* of a layer */
    uint32_t experts_used;   /* for a token */
    int32_t chat_template;   /* not 0: there is one */
    uint64_t weight_bytes;
    uint64_t expert_bytes; /* of weight_bytes, experts */
    uint64_t expert_groups;
    uint64_t group_bytes_max; /* largest expert */
    int32_t checksums;        /* not 0: the file carries them, see verify */
    char format[12];          /* "GGUF", "safetensors" */
    char family[32];          /* "qwen3moe" */
    char types[128];          /* "Q4_0 10.6 MB, Q8_0 1.8 MB" */
} mr_model_info;
#define MR_MODEL_INFO_INIT { sizeof(mr_model_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0}, {0}, {0} }

/* How the budget is split: that of the memory that is computed in, and beside it the host's, on a
 * device with memory of its own; elsewhere what is named host_ is 0. */
typedef struct mr_plan {
    uint32_t struct_size;
    int32_t resident; /* not 0: every expert fits, and nothing streams after the first touch */
    uint64_t budget_bytes;
    uint64_t least_bytes; /* the smallest budget that works with these options */
    uint64_t stay_bytes;  /* weights that stay */
    uint64_t dense_bytes; /* sections for the layers' dense weights */
    uint64_t kv_bytes;
    uint64_t work_bytes;    /* activations and scratch */
    uint64_t reserve_bytes; /* the program itself */
    uint64_t ring_bytes;
    uint64_t cache_bytes;
    uint64_t host_budget_bytes;
    uint64_t host_least_bytes;
    uint64_t host_cache_bytes; /* experts in page-locked memory */
    uint32_t kv_tokens;
    uint32_t sections;
    uint32_t cache_slots; /* experts that the cache holds */
    uint32_t groups;      /* experts that the model has */
    uint32_t chunk_tokens;
    uint32_t dense_sections; /* layers whose dense weights are in memory at once */
    uint32_t dense_layers;   /* of so many; if they are more, dense weights stream */
    uint32_t host_cache_slots;
    uint32_t host_dense_sections;
    uint32_t cycle_groups; /* experts that one token uses on its way through the layers */
    int32_t cpu_experts;   /* not 0: the processor may compute experts beside the device */
    char kv_type[12];
    char device[64];
} mr_plan;
#define MR_PLAN_INIT \
    { sizeof(mr_plan), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
      {0}, {0} }

typedef struct mr_stats { /* counters since mr_engine_open */
    uint32_t struct_size;
    uint32_t sessions; /* open now */
    uint64_t passes;
    uint64_t prefill_tokens;
    uint64_t decode_tokens;
    uint64_t bytes_read;       /* experts, from disk */
    uint64_t dense_bytes_read; /* dense weights, where they stream */
    uint64_t reads;
    uint64_t hits; /* experts found in memory when asked for */
    uint64_t late; /* found on their way */
    uint64_t misses;
    uint64_t prefetched;
    uint64_t prefetch_useful; /* of prefetched, asked for while still there */
    uint64_t host_hits; /* in host memory, of what a device's own memory misses; elsewhere 0 */
    uint64_t host_late;
    uint64_t host_misses;
    uint64_t read_busy_ns; /* at least one read was under way */
    uint64_t wait_ns;      /* computing stood still for weights */
    uint64_t busy_ns;      /* passes took in all */
    uint64_t memory_peak_bytes; /* resident set of the process */
    uint64_t guessed;        /* experts thought worth reading ahead, read or not */
    uint64_t guesses_came;   /* of guessed, used: precision */
    uint64_t guesses_wanted; /* used where there was a guess; guesses_came of them: recall */
    uint64_t all_bytes_read; /* from disk, with what surrounds the weights */
    uint64_t cpu_experts;    /* computed on the processor beside a device */
    uint64_t probe_bytes_per_s; /* what the disks gave when they were probed; 0: they were not */
} mr_stats;
#define MR_STATS_INIT \
    { sizeof(mr_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Opens a GGUF file, a Hugging Face directory, or the model that is part of the library, "mr:tiny".
 * options may be NULL. poll and open_cancel can cancel it. */
MR_API mr_status mr_engine_open(mr_engine **out, const char *path,
                                const mr_engine_options *options);
/* NULL and a closed handle are no-ops. Memory is freed when sessions and batches are closed too. */
MR_API void mr_engine_close(mr_engine *engine);
/* Ends the calls that are running on the engine itself; sessions and batches go on. */
MR_API void mr_engine_cancel(mr_engine *engine);
/* What mr_engine_open would do, without reading weights. info_out and plan_out may be NULL. A
 * budget that is too small is no failure: compare budget_bytes with least_bytes. */
MR_API mr_status mr_plan_make(const char *path, const mr_engine_options *options,
                              mr_model_info *info_out, mr_plan *plan_out);
MR_API mr_status mr_engine_info(mr_engine *engine, mr_model_info *out);
MR_API mr_status mr_engine_plan(mr_engine *engine, mr_plan *out);
MR_API mr_status mr_engine_stats(mr_engine *engine, mr_stats *out);

/* ---- Text and tokens ------------------------------------------------------------------------- */

enum {
    MR_ENCODE_ADD_SPECIAL = 1,   /* put the model's begin token in front, where it has one */
    MR_ENCODE_PARSE_SPECIAL = 2, /* special tokens spelled in the text become their ids */
    MR_DECODE_SKIP_SPECIAL = 1   /* leave special tokens out */
};
enum { MR_TOKEN_SPECIAL = 1, MR_TOKEN_END = 2 }; /* a mark, not text; ends a generation */

MR_API mr_status mr_engine_encode(mr_engine *engine, const char *text, size_t text_size,
                                  uint32_t flags, int32_t *ids, size_t ids_capacity,
                                  size_t *ids_count_out);
MR_API mr_status mr_engine_decode(mr_engine *engine, const int32_t *ids, size_t ids_count,
                                  uint32_t flags, char *text, size_t text_capacity,
                                  size_t *text_size_out);
/* The bytes that a token adds to a text, which may be a part of a character, and MR_TOKEN_ flags.
 * flags_out may be NULL. */
MR_API mr_status mr_engine_token(mr_engine *engine, int32_t id, char *bytes, size_t bytes_capacity,
                                 size_t *bytes_size_out, uint32_t *flags_out);
/* The id of a token as the vocabulary spells it, such as "<|im_end|>"; MR_EINVAL if it has none. */
MR_API mr_status mr_engine_find_token(mr_engine *engine, const char *spelled, int32_t *id_out);

typedef struct mr_message { /* never grows */
    const char *role;       /* "system", "user", "assistant" */
    const char *content;
} mr_message;
/* A conversation by the model's chat template, with the header of the answer at its end: as
 * text, or as tokens. MR_EUNSUPPORTED where the model ships no template, or one that is not
 * understood. */
MR_API mr_status mr_engine_chat_text(mr_engine *engine, const mr_message *messages,
                                     size_t messages_count, char *text, size_t text_capacity,
                                     size_t *text_size_out);
MR_API mr_status mr_engine_chat_tokens(mr_engine *engine, const mr_message *messages,
                                       size_t messages_count, int32_t *ids, size_t ids_capacity,
                                       size_t *ids_count_out);

enum { MR_POOL_MEAN = 0, MR_POOL_LAST = 1 };
/* The hidden states of tokens after the final norm: their mean, or that of the last token; dim
 * floats, not normalised to unit length. Takes one of sequences_max while it runs. */
MR_API mr_status mr_engine_embed(mr_engine *engine, const int32_t *ids, size_t ids_count,
                                 int32_t pooling, float *values, size_t values_capacity,
                                 size_t *values_count_out);

/* ---- Session --------------------------------------------------------------------------------- */

typedef struct mr_session_options {
    uint32_t struct_size;
    float temperature;         /* default: 0, always the most likely token */
    float top_p;               /* keep the fewest tokens with this probability; default: all */
    float min_p;               /* drop tokens below this share of the best one's; default: none */
    int32_t top_k;             /* keep the k most likely; default: all */
    int32_t repetition_window; /* tokens that the penalty looks back at; default: 64 */
    float repetition_penalty;  /* divides logits of recent tokens; default: 1, off */
    uint32_t tokens_max;       /* of a generation; default: until the context is full */
    uint64_t seed;             /* same seed, model and prompt: same tokens */
    const char *const *stop;   /* the text ends before the first of these */
    size_t stop_count;
    int32_t logprobs;   /* alternatives in mr_token; default: 0, and no log-probability */
    int32_t ignore_end; /* not 0: go on after the end-of-text token */
} mr_session_options;
#define MR_SESSION_OPTIONS_INIT \
    { sizeof(mr_session_options), 0.0f, 0.0f, 0.0f, 0, 0, 0.0f, 0, 0, NULL, 0, 0, 0 }

typedef struct mr_token_prob { /* never grows */
    int32_t id;
    float logprob; /* natural log, at temperature 1 */
} mr_token_prob;

enum { MR_FINISH_NONE = 0, MR_FINISH_STOP = 1, MR_FINISH_LENGTH = 2 };
typedef struct mr_token {
    uint32_t struct_size;
    int32_t id;
    const char *text; /* complete UTF-8; empty while a character is incomplete */
    size_t text_size;
    const mr_token_prob *alternatives; /* as many as logprobs asks for, best first */
    size_t alternatives_count;
    float logprob;  /* of this token; only with logprobs */
    int32_t finish; /* MR_FINISH_; not 0 on the last token */
} mr_token;
#define MR_TOKEN_INIT { sizeof(mr_token), 0, NULL, 0, NULL, 0, 0.0f, 0 }

/* options may be NULL. MR_ELIMIT when sequences_max are open. */
MR_API mr_status mr_session_open(mr_session **out, mr_engine *engine,
                                 const mr_session_options *options);
/* NULL and a closed handle are no-ops. Ends a running call and waits for it. */
MR_API void mr_session_close(mr_session *session);
/* The running call returns MR_ECANCELED after the layer that it is in; without one nothing
 * happens. */
MR_API void mr_session_cancel(mr_session *session);
/* New options for what is generated from here on. */
MR_API mr_status mr_session_configure(mr_session *session, const mr_session_options *options);

/* Appends text or tokens to the context and computes them. In an empty session the model's begin
 * token comes first, and special tokens in the text are recognised. The next token begins a new
 * generation: tokens_max, stop and seed count from there. After MR_ECANCELED what was computed
 * stays (mr_session_length). */
MR_API mr_status mr_session_feed(mr_session *session, const char *text, size_t text_size);
MR_API mr_status mr_session_feed_tokens(mr_session *session, const int32_t *ids, size_t ids_count);
/* As feed_tokens, and logprobs[i] is the log-probability of ids[i] after all before it; NaN where
 * there is nothing before it. */
MR_API mr_status mr_session_score(mr_session *session, const int32_t *ids, size_t ids_count,
                                  float *logprobs);

/* The next token's text; MR_END when there is none. The token joins the context at the next call
 * that needs it there; one that ended the text (MR_FINISH_STOP) does not. */
MR_API mr_status mr_session_next(mr_session *session, const char **text_out, size_t *text_size_out);
/* All about the token that mr_session_next gave last. Its pointers are borrowed as that text is. */
MR_API mr_status mr_session_token(mr_session *session, mr_token *out);

/* Tokens in the context. */
MR_API mr_status mr_session_length(mr_session *session, size_t *count_out);
MR_API mr_status mr_session_tokens(mr_session *session, int32_t *ids, size_t ids_capacity,
                                   size_t *ids_count_out);
/* The model's output after the context's last token: vocabulary floats, borrowed; those of which
 * the last token of mr_session_next was chosen. MR_EINVAL after a truncation, when they are not
 * known. */
MR_API mr_status mr_session_logits(mr_session *session, const float **logits_out,
                                   size_t *count_out);
/* The count most likely tokens by these logits, best first; *count_out is how many there are. */
MR_API mr_status mr_session_top(mr_session *session, mr_token_prob *top, size_t count,
                                size_t *count_out);
/* Forgets all tokens from position count on. */
MR_API mr_status mr_session_truncate(mr_session *session, size_t count);
/* A session with the same context and options, whose KV cache is shared until one of them goes
 * on. */
MR_API mr_status mr_session_fork(mr_session **out, mr_session *session);

/* Gives 0, or not 0 for failure. */
typedef int32_t (*mr_write_fn)(void *user, const void *data, size_t data_size);
/* Gives the bytes read, at most capacity; 0 at the end; < 0 for failure. */
typedef int64_t (*mr_read_fn)(void *user, void *data, size_t data_capacity);
/* Tokens, KV cache and logits, so that a restored session continues to the bit on this model;
 * not the sampler. A file is there complete or not at all. Callbacks run on this thread. */
MR_API mr_status mr_session_save(mr_session *session, const char *path);
MR_API mr_status mr_session_save_to(mr_session *session, mr_write_fn write, void *user);
/* Replaces the context. After a failure it is empty. MR_EFORMAT for a state of another model. */
MR_API mr_status mr_session_restore(mr_session *session, const char *path);
MR_API mr_status mr_session_restore_from(mr_session *session, mr_read_fn read, void *user);

/* ---- Batch ----------------------------------------------------------------------------------- */

typedef struct mr_result {
    uint32_t struct_size;
    mr_status status; /* of this prompt */
    uint64_t id;      /* as submitted */
    const char *text;
    size_t text_size;
    const int32_t *tokens;
    size_t tokens_count;
    const char *error; /* message; "" if status is MR_OK */
    uint32_t prompt_tokens;
    int32_t finish; /* MR_FINISH_ */
} mr_result;
#define MR_RESULT_INIT { sizeof(mr_result), 0, 0, NULL, 0, NULL, 0, NULL, 0, 0 }

/* Sessions of its own: parallel, or all that are free if that is 0. A result depends on its
 * prompt and the options alone, seed included. options may be NULL. */
MR_API mr_status mr_batch_open(mr_batch **out, mr_engine *engine, const mr_session_options *options,
                               uint32_t parallel);
/* Queues a prompt, and never blocks; MR_AGAIN when the queue is full. */
MR_API mr_status mr_batch_submit(mr_batch *batch, uint64_t id, const char *text, size_t text_size);
MR_API mr_status mr_batch_submit_tokens(mr_batch *batch, uint64_t id, const int32_t *ids,
                                        size_t ids_count);
/* Waits for a result, in the order in which they come; MR_END when no prompt is under way. A failed
 * prompt is a result with a status. */
MR_API mr_status mr_batch_next(mr_batch *batch, mr_result *out);
/* Ends all prompts that are under way; their results have MR_ECANCELED. */
MR_API void mr_batch_cancel(mr_batch *batch);
/* The running mr_batch_next returns MR_ECANCELED; prompts go on, and no result is lost. */
MR_API void mr_batch_wake(mr_batch *batch);
/* NULL and a closed handle are no-ops. Ends all that is running and waits for it. */
MR_API void mr_batch_close(mr_batch *batch);

/* Takes a result as it comes; done of total are there. A result other than 0 cancels the rest. The
 * strings are valid during the call. */
typedef int32_t (*mr_result_fn)(void *user, const mr_result *result, size_t done, size_t total);
/* All prompts in one call: texts[i] of sizes[i] bytes, or up to its NUL where sizes is NULL; the
 * result's id is i. MR_OK when each has had its result, failed ones included. */
MR_API mr_status mr_engine_batch(mr_engine *engine, const mr_session_options *options,
                                 const char *const *texts, const size_t *sizes, size_t count,
                                 mr_result_fn result, void *user);

/* ---- Job files ------------------------------------------------------------------------------- */

typedef struct mr_job_progress { /* between two passes */
    uint32_t struct_size;
    uint32_t sequences; /* in flight */
    uint64_t requests;
    uint64_t finished; /* answered or refused, by this run or an earlier one */
    uint64_t refused;  /* of finished */
    uint64_t resumed;  /* of finished, by earlier runs */
    uint64_t prompt_tokens; /* of this run, as the next two */
    uint64_t new_tokens;
    uint64_t shared_tokens;    /* of prompts, not computed again */
    uint64_t tokens_in_flight; /* in the KV cache */
    uint64_t elapsed_ns;
    uint64_t left_ns; /* estimated; 0 while nothing is known */
    uint64_t memory_bytes; /* resident set of the process */
    uint64_t budget_bytes;
    uint64_t preempted;   /* times that a sequence gave its memory to others */
    uint64_t moved_bytes; /* of such sequences, out of the KV cache and in again */
    float prefill_tokens_per_s; /* lately, as decode */
    float decode_tokens_per_s;
    float wait_share; /* of the time of passes, waiting for weights: 0 to 1 */
    float hit_rate;   /* of experts asked for, found in memory: 0 to 1 */
} mr_job_progress;
#define MR_JOB_PROGRESS_INIT \
    { sizeof(mr_job_progress), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0f, 0.0f, 0.0f, 0.0f }

/* Called on the thread of mr_job_run, before the first pass and after each. A result other than 0
 * ends the job, as cancel does. No mr_ calls inside; the struct is valid during the call. */
typedef int32_t (*mr_job_fn)(void *user, const mr_job_progress *progress);

typedef struct mr_job_options {
    uint32_t struct_size;
    uint32_t tokens_max; /* of requests that state no limit; default: 256 */
    const char *input;   /* OpenAI's batch format or a prompt a line; .gz and .zst are decompressed */
    const char *output;  /* answers in the order of the input, there when the job is complete; .gz
                          * and .zst are compressed */
    const char *errors;  /* what is refused; default: beside output, .errors.jsonl */
    const char *journal; /* what is finished, to go on from; default: output with .journal */
    const char *follow;  /* also gets answers as they finish; default: none */
    const char *format;  /* "jsonl", "text"; default: by the first line */
    const char *report;  /* a page about the run; default: none */
    const char *const *model_names; /* more names that requests may give for the model; "*": any */
    size_t model_names_count;
    uint64_t seed;       /* mixed into the seeds that requests get by their custom_id */
    int64_t created_s;   /* time since 1970 that answers give; default: when input last changed */
    uint64_t sync_ms;    /* the journal is synced so often; default: 1000 */
    uint64_t spill_bytes_max;      /* file for keys and values of sequences that give their place */
    uint64_t spill_host_bytes_max; /* the same in host memory, beside a device's; defaults: 0 */
    const char *spill_dir; /* where that file is made; default: where the journal is */
    int32_t ordered;       /* not 0: follow is in the order of the input */
    int32_t overwrite;     /* not 0: begin a job although its output is there */
    int32_t greedy;        /* not 0: temperature 0 for requests that state none, in place of 1 */
    int32_t chat;          /* not 0: a line of text is a user's message */
    mr_job_fn progress;    /* default: none */
    void *user;
    const int32_t *cancel; /* not 0 ends the job after the pass under way; any thread may set it */
} mr_job_options;
#define MR_JOB_OPTIONS_INIT \
    { sizeof(mr_job_options), 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL, \
      0, 0, 0, 0, NULL, NULL, NULL }

typedef struct mr_job_result { /* paths are borrowed until this thread's next mr_ call */
    uint32_t struct_size;
    int32_t complete; /* not 0: every request is finished, output and errors are in place */
    uint64_t requests;
    uint64_t finished; /* answered or refused, by this run or an earlier one */
    uint64_t refused;  /* of finished */
    uint64_t resumed;  /* of finished, by earlier runs */
    uint64_t prompt_tokens; /* computed by this run, as all that follows */
    uint64_t new_tokens;
    uint64_t shared_tokens;
    uint64_t preempted;
    uint64_t moved_bytes;
    uint64_t recomputed_tokens; /* of sequences that gave their place; not in prompt_tokens */
    uint64_t elapsed_ns;
    const char *output;
    const char *errors; /* "" if nothing was refused */
    const char *journal;
} mr_job_result;
#define MR_JOB_RESULT_INIT \
    { sizeof(mr_job_result), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL }

/* Runs a file of requests, as "moering batch" does, through a model that is opened for it: context,
 * sequences and KV cache follow from the requests where engine_options, which may be NULL, leave
 * them 0. docs/batch.md describes the files. Requests that are wrong are no failure: they are in the
 * errors file. After MR_ECANCELED, another failure or a kill the same call goes on where the job
 * was. MR_EINVAL: options, a job that is running already, or a journal of something else. result_out may
 * be NULL; it is filled after a failure too, with 0 requests where the job had not begun. */
MR_API mr_status mr_job_run(const char *path, const mr_engine_options *engine_options,
                            const mr_job_options *options, mr_job_result *result_out);

#ifdef __cplusplus
}
#endif
#endif
