/* Generates text with Moering from C.
 *
 *     cc generate.c $(pkg-config --cflags --libs moering) -o generate
 *     ./generate mr:tiny "package main" 7
 */
#include <moering.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char *doing)
{
    fprintf(stderr, "%s: %s\n", doing, mr_last_error());
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL PROMPT SEED\n", argv[0]);
        return EXIT_FAILURE;
    }
    mr_engine_options engine_options = MR_ENGINE_OPTIONS_INIT;
    engine_options.context_tokens_max = 512;
    engine_options.sequences_max = 1;
    mr_session_options options = MR_SESSION_OPTIONS_INIT;
    options.temperature = 0.8f;
    options.top_p = 0.95f;
    options.tokens_max = 64;
    options.seed = strtoull(argv[3], NULL, 10);

    mr_engine *engine = NULL;
    mr_session *session = NULL;
    const char *text = NULL;
    size_t text_size = 0;
    mr_status status = mr_engine_open(&engine, argv[1], &engine_options);
    if (status >= 0)
        status = mr_session_open(&session, engine, &options);
    if (status >= 0)
        status = mr_session_feed(session, argv[2], strlen(argv[2]));
    while (status >= 0 && (status = mr_session_next(session, &text, &text_size)) == MR_OK)
        fwrite(text, 1, text_size, stdout);
    int code = status < 0 ? failed("generating") : EXIT_SUCCESS;
    mr_session_close(session); /* NULL is fine, and so is any order */
    mr_engine_close(engine);
    return code;
}
