/* prompts.c: fuzzes what people give to ./run: files of --prompts, and messages typed in a chat.
 * The first byte says which. What is typed is text: it never becomes a <|im_start|>. */

#define main run_main
#include "../../run.c" /* its static functions */
#undef main
#include "fuzz.h"

static Model model;
static Session session;
static Chat chat;

void fuzz_begin(void) {
    Error e;
    model_open_vocab(&model, "tests/data/tok_inflm.gguf");
    session = (Session){ .model = &model, .tokenizer = tokenizer_new(&model.vocab, &e) };
    session.n_ctx = 64;
    if (!session.tokenizer) die("%s", e.text);
    opt.prompts = "input";
    chat = (Chat){ .s = &session,
                   .im_start = vocab_find(&model.vocab, "<|im_start|>"),
                   .im_end = vocab_find(&model.vocab, "<|im_end|>") };
}

static void read_file_of_prompts(const Buf *text) {
    PromptFile f = { 0 };
    read_prompts(&session, &f, text);
    for (size_t i = 0; i < f.n; i++) {
        if (f.all[i].prompt.n > 64) fuzz_fail("a prompt of %zu tokens", f.all[i].prompt.n);
        f.all[i].end = "stop";
        print_completion(f.line[i], &f.all[i]);
        free(f.all[i].prompt.id);
    }
    free(f.all);
    free(f.line);
}

static void read_messages(const Buf *input) {
    Buf text = { NULL, 0, 0 };
    FILE *keyboard = stdin;
    stdin = fmemopen(input->data, input->n, "r");
    while (read_message(&text)) {
        chat.ids = (Ids){ NULL, 0, 0 };
        add_message(&chat, "user", text.data ? text.data : "", text.n, false);
        for (size_t i = 0; i < chat.ids.n; i++) {
            int id = chat.ids.id[i];
            if (id < 0 || id >= model.vocab.n) fuzz_fail("id %d", id);
            if (i && id == chat.im_start) fuzz_fail("text became <|im_start|>");
        }
        free(chat.ids.id);
    }
    fclose(stdin);
    stdin = keyboard;
    buf_free(&text);
}

void fuzz_one(const uint8_t *data, size_t size) {
    Buf text = { NULL, 0, 0 };
    if (size < 2) return;
    buf_add(&text, data + 1, size - 1);
    *data & 1 ? read_messages(&text) : read_file_of_prompts(&text);
    buf_free(&text);
}
