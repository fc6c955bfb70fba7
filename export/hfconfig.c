/* hfconfig.c: reading config.json, the hyperparameters of a Hugging Face checkpoint.
 *
 * What to know first: Llama in transformers is a family. The same class runs models with biases,
 * scaled RoPE and more, and other classes use the same tensor names. Whatever this program does not
 * compute is refused by name, or it would run and be subtly wrong; keys that change nothing here
 * (dropout, cache, versions) are ignored.
 *
 * Versions 4 and 5 of transformers differ: {"rope_theta": 1e4, "rope_scaling": null} has become
 * {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}. Both are read.
 * Test: tests/test_format.c, tests/badinput.py. */

#include "../json.h"
#include "export.h"

/* Keys of the Llama family that change the result, and the value at which they do not. Absent and
 * null are always fine; a NaN here: nothing else is. */
static const struct {
    const char *key;
    double neutral;
} fixed_keys[] = {
    { "attention_bias", 0 },
    { "mlp_bias", 0 },
    { "use_bias", 0 },
    { "qkv_bias", 0 },
    { "partial_rotary_factor", 1 },
    { "rotary_pct", 1 },
    { "logit_scale", 1 },
    { "logits_scaling", 1 },
    { "embedding_multiplier", 1 },
    { "residual_multiplier", 1 },
    { "attention_multiplier", NAN },
    { "query_pre_attn_scalar", NAN },
    { "final_logit_softcapping", NAN },
    { "attn_logit_softcapping", NAN },
    { "use_qk_norm", 0 },
    { "qk_norm", 0 },
    { "num_local_experts", 0 },
    { "num_experts", 0 },
    { "quantization_config", NAN },
    { "compression_config", NAN },
    { "add_cross_attention", 0 },
    { "is_encoder_decoder", 0 },
};

static bool config_refuse(const Json *obj, const char *key, double neutral, Error *e) {
    const Json *j = json_get(obj, key);
    if (!j || j->type == J_NULL) return true;
    double value = j->type == J_BOOL ? (double)j->integer : j->num;
    if ((j->type == J_BOOL || j->type == J_NUMBER) && value == neutral) return true;
    char found[40], want[40];
    snprintf(found, sizeof found, "%s", json_type_name[j->type]);
    if (j->type == J_BOOL) snprintf(found, sizeof found, "%s", j->integer ? "true" : "false");
    if (j->type == J_NUMBER) snprintf(found, sizeof found, "%g", j->num);
    snprintf(want, sizeof want, "%g", neutral);
    return fail(e, "key %s: %s, expected %s; it changes the model", key, found,
                isnan(neutral)      ? "null"
                : j->type == J_BOOL ? "false"
                                    : want);
}

/* rope_scaling, or rope_parameters, may say that nothing is scaled. */
static bool config_rope(const Json *root, const char *key, double *theta, Error *e) {
    const Json *rope;
    Str type = str_of("default");
    if (!json_member(root, key, false, J_OBJECT, &rope, e)) return false;
    if (!rope) return true;
    if (!json_str(rope, "type", false, &type, e) || !json_str(rope, "rope_type", false, &type, e) ||
        !json_num(rope, "rope_theta", false, theta, e) ||
        !config_refuse(rope, "partial_rotary_factor", 1, e))
        return false;
    for (const Json *x = json_first(rope); x; x = json_next(rope, x))
        if (x->type == J_OBJECT)
            return fail(e, "key %s: an object %.*s, expected one rope for all layers", key,
                        STR(x->key));
    if (str_is(type, "default")) return true;
    return fail(e, "key %s: type %.*s, expected default; scaled RoPE is another model", key,
                STR(type));
}

static bool config_attention(const Json *root, Error *e) {
    bool sliding = true;
    const Json *layers;
    if (!json_bool(root, "use_sliding_window", false, &sliding, e) ||
        (sliding && !config_refuse(root, "sliding_window", NAN, e)) ||
        !json_member(root, "layer_types", false, J_ARRAY, &layers, e))
        return false;
    for (const Json *x = layers ? json_first(layers) : NULL; x; x = json_next(layers, x)) {
        Str found = x->type == J_STRING ? x->str : str_of(json_type_name[x->type]);
        if (!str_is(found, "full_attention"))
            return fail(e, "key layer_types: %.*s, expected full_attention", STR(found));
    }
    return true;
}

/* One whole number into an int. */
static bool config_int(const Json *root, const char *key, bool required, int max, int *out,
                       Error *e) {
    int64_t v = *out;
    if (!json_int(root, key, required, 1, max, &v, e)) return false;
    *out = (int)v;
    return true;
}

static bool config_read(Config *c, const Json *root, Error *e) {
    Str model = str_of(""), act = str_of("silu");
    double theta = 10000, eps = 1e-6; /* where absent: what transformers' LlamaConfig takes */
    c->max_ctx = 2048;
    if (root->type != J_OBJECT)
        return fail(e, "%s, expected an object", json_type_name[root->type]);
    if (!json_str(root, "model_type", true, &model, e)) return false;
    if (!str_is(model, "llama")) return fail(e, "key model_type: %.*s, expected llama", STR(model));
    if (!json_str(root, "hidden_act", false, &act, e)) return false;
    if (!str_is(act, "silu")) return fail(e, "key hidden_act: %.*s, expected silu", STR(act));
    for (size_t i = 0; i < sizeof fixed_keys / sizeof *fixed_keys; i++)
        if (!config_refuse(root, fixed_keys[i].key, fixed_keys[i].neutral, e)) return false;
    if (!config_int(root, "hidden_size", true, 65536, &c->dim, e) ||
        !config_int(root, "intermediate_size", true, 1 << 20, &c->hidden_dim, e) ||
        !config_int(root, "num_hidden_layers", true, 1024, &c->n_layers, e) ||
        !config_int(root, "num_attention_heads", true, 1024, &c->n_heads, e) ||
        !config_int(root, "vocab_size", true, 1 << 20, &c->vocab_size, e))
        return false;
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->dim / c->n_heads;
    if (!config_int(root, "num_key_value_heads", false, 1024, &c->n_kv_heads, e) ||
        !config_int(root, "head_dim", false, 1024, &c->head_dim, e) ||
        !config_int(root, "max_position_embeddings", false, 1 << 24, &c->max_ctx, e) ||
        !json_num(root, "rope_theta", false, &theta, e) ||
        !json_num(root, "rms_norm_eps", false, &eps, e) ||
        !json_bool(root, "tie_word_embeddings", false, &c->tied, e) ||
        !config_rope(root, "rope_scaling", &theta, e) ||
        !config_rope(root, "rope_parameters", &theta, e) || !config_attention(root, e))
        return false;
    c->rope_theta = (float)theta;
    c->norm_eps = (float)eps;
    return config_check(c, e);
}

bool config_json_parse(Config *c, const char *text, size_t n, Error *e) {
    JsonDoc doc = { 0 };
    memset(c, 0, sizeof *c);
    bool ok = json_parse(&doc, text, n, e) && config_read(c, doc.node, e);
    json_free(&doc);
    return ok;
}
