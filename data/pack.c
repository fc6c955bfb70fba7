#include "texts.h"
int vocab_pack_main(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return 0;
}
