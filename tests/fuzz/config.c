/* config.c: fuzzes export/hfconfig.c, the reader of config.json. What it accepts is a shape that
 * config_check accepts. */

#include "../../export/export.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    Config c;
    Error e = { "" };
    if (!config_json_parse(&c, (const char *)data, size, &e))
        fuzz_refused(&e);
    else if (!config_check(&c, &e))
        fuzz_fail("accepted: %s", e.text);
}
