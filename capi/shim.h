/* shim.h - between the C functions of moering.h (shim.c) and their Go side (*.go), which has the
 * same names with mri_ for mr_, handles as numbers, and a place for a failure as its last
 * argument. */
#ifndef MOERING_SHIM_H
#define MOERING_SHIM_H
#include "moering.h"

enum { MRI_MESSAGE_BYTES = 2048, MRI_FILE_BYTES = 4096, MRI_TENSOR_BYTES = 256 };

/* Where a failure is described; strings are cut to fit, and end with a NUL. */
typedef struct mri_failure {
    mr_status status;
    int64_t offset, line;
    char message[MRI_MESSAGE_BYTES];
    char file[MRI_FILE_BYTES];
    char tensor[MRI_TENSOR_BYTES];
} mri_failure;

/* Go cannot call a C function pointer; these do. */
void mri_call_log(mr_log_fn log, void *user, int32_t level, const char *message);
int32_t mri_call_poll(mr_poll_fn poll, void *user, uint64_t done, uint64_t total);
int32_t mri_call_write(mr_write_fn write, void *user, const void *data, size_t data_size);
int64_t mri_call_read(mr_read_fn read, void *user, void *data, size_t data_capacity);
int32_t mri_call_job(mr_job_fn progress, void *user, const mr_job_progress *now);

/* Frees memory that a closed handle has lent. The thread that made the last call on the handle,
 * whose failure borrower is, may be looking at it until its next call: if that is another one, it
 * frees it then. */
void mri_release(mri_failure *borrower, void *memory);
/* Frees memory in this thread's next call, to which it is lent until then. */
void mri_lend(void *memory);
#endif
