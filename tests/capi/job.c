/* job.c - a file of requests through the C API, cancelled again and again until it is done.
 *
 *     job MODEL INPUT OUTPUT PASSES     each run ends after so many passes; 0: none does. An answer with
 *                                       log-probabilities is begun again, so they must suffice for one */
#define _GNU_SOURCE
#include "check.h"

static int passes_max;

typedef struct watch {
    int calls;
    uint64_t finished, requests;
} watch;

static int32_t report(void *user, const mr_job_progress *p)
{
    watch *w = user;
    CHECK(p->struct_size == sizeof *p && p->finished >= w->finished && p->finished <= p->requests);
    CHECK(p->refused <= p->finished && p->resumed <= p->finished);
    CHECK(p->memory_bytes > 0 && p->budget_bytes > 0);
    w->finished = p->finished;
    w->requests = p->requests;
    return passes_max != 0 && w->calls++ == passes_max;
}

int main(int argc, char **argv)
{
    mr_engine_options eo = MR_ENGINE_OPTIONS_INIT;
    mr_job_options o = MR_JOB_OPTIONS_INIT;
    mr_status status;
    int runs = 0;
    if (argc != 5)
        return 2;
    quiet_begin();
    passes_max = atoi(argv[4]);
    o.input = argv[2];
    o.output = argv[3];
    o.progress = report;
    eo.sequences_max = passes_max != 0 ? 4 : 0; /* some after others */
    uint64_t finished = 0;
    do {
        watch w = {0};
        mr_job_result r = MR_JOB_RESULT_INIT;
        o.user = &w;
        status = mr_job_run(argv[1], &eo, &o, &r);
        CHECK(r.resumed == finished && r.finished >= finished && r.requests == w.requests);
        CHECK(strcmp(r.output, argv[3]) == 0 && strstr(r.journal, ".journal") != NULL);
        CHECK(r.complete == (status == MR_OK) && (r.refused > 0) == (r.errors[0] != '\0'));
        finished = r.finished;
        runs++;
    } while (status == MR_ECANCELED && runs < 100);
    STATUS(status, MR_OK);
    quiet_end();
    printf("%d\n", runs);
    return check_failures != 0;
}
