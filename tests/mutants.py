#!/usr/bin/env python3
"""mutants.py: `make mutants`. A test that nothing can fail is worth nothing.

Copies the tree to build/mutants, makes one wrong edit after the other there, builds, and runs the
tests that should notice. Prints one line per mutant; a mutant that no test notices is a failure,
and so is an edit that no longer applies or compiles. Arguments choose mutants by part of their
name. About ten seconds each."""

import os
import shutil
import subprocess
import sys

from check import ROOT, check, end, skip

TREE = os.path.join(ROOT, "build", "mutants")

# name, file, what stands there (exactly once), what is to stand there, tests that must fail
MUTANTS = [
    # the model
    ("rope turns half-split pairs", "run.c",
     "float a = v[2 * i], b = v[2 * i + 1];\n            v[2 * i] = a * cosine[i] - b * sine[i];\n"
     "            v[2 * i + 1] = a",
     "float a = v[i], b = v[i + head_dim / 2];\n            v[i] = a * cosine[i] - b * sine[i];\n"
     "            v[i + head_dim / 2] = a", "test_run"),
    ("rope turns the other way", "run.c", "a * cosine[i] - b * sine[i];",
     "a * cosine[i] + b * sine[i];", "test_run"),
    ("rope frequencies lag by one", "run.c", "(float)(2 * i) / (float)head_dim",
     "(float)(2 * i + 2) / (float)head_dim", "test_run"),
    ("theta is ignored", "run.c", "pow((double)theta,", "pow(10000.0 + 0 * (double)theta,",
     "test_run"),
    ("positions start at one", "run.c", "(float)pos * frequency",
     "(float)(pos + (pos > 0)) * frequency", "test_run"),
    ("queries are not turned", "run.c",
     "rope(e->q + q_row, cosine, sine, c->n_heads, c->head_dim);", "(void)q_row;", "test_run"),
    ("keys are turned for one head only", "run.c",
     "cosine, sine, c->n_kv_heads, c->head_dim);", "cosine, sine, 1, c->head_dim);", "test_run"),
    ("1/sqrt(head_dim) is missing", "attention.c", "scale = 1 / sqrtf((float)D);", "scale = 1;",
     "test_run"),
    ("1/sqrt(head_dim - 1)", "attention.c", "scale = 1 / sqrtf((float)D);",
     "scale = 1 / sqrtf((float)D - 1);", "test_run"),
    ("mask: the token does not see itself", "attention.c",
     "int seen = a->b->pos[row_of(a, first, t)] + 1 - chunk * CHUNK;",
     "int seen = a->b->pos[row_of(a, first, t)] + (a->b->pos[row_of(a, first, t)] == chunk * CHUNK)"
     " - chunk * CHUNK;", "test_run"),
    ("mask: the first token is never seen", "cpu/attend.h",
     "    chunk_mix(c);",
     "    for (int t = 0; t < c->n; t++) c->scores[t * CHUNK] *= c->limit[t] == 1;\n"
     "    chunk_mix(c);", "test_run"),
    ("mask: queries that go together see as far as the first", "cpu/attend.h",
     "if (c->limit[i] > from)", "if (c->limit[i] > CHUNK)", "test_attention"),
    ("grouped heads: h % K for h / (H / K)", "attention.c",
     "return kv_head * a->shared + t % a->shared;",
     "return kv_head + t % a->shared * (a->cache->n_heads / a->shared);", "test_run"),
    ("sequences share a cache", "attention.c", "(size_t)layer * (size_t)c->n_seq + (size_t)seq;",
     "(size_t)layer * (size_t)c->n_seq + 0 * (size_t)seq;", "test_run"),
    ("layers share a cache", "attention.c", "(size_t)layer * (size_t)c->n_seq + (size_t)seq;",
     "(size_t)(layer & 0) * (size_t)c->n_seq + (size_t)seq;", "test_run"),
    ("the mixes of chunks are not brought to one maximum", "attention.c",
     "sum[d] = sum[d] * weight[0] + part[d] * weight[1];", "sum[d] = sum[d] + part[d];",
     "test_attention"),
    ("chunks that threads share lose the last", "attention.c",
     "chunk * CHUNK <= a->b->pos[row]", "chunk * CHUNK + 1 <= a->b->pos[row]", "test_attention"),
    ("half precision overflows to infinity", "attention.c",
     "size < 0x477fe000 ? size : 0x477fe000;", "size;", "test_attention"),
    ("q8_0 scales of keys go to dimensions", "cpu/attend.h",
     "V d = form == TILES_OF_KEYS ? v_load(scale + i) : v_set1(scale[k]);",
     "V d = v_set1(scale[k]);", "test_attention"),
    ("e^x: the number behind the last limit", "cpu/attend.h", "v_max(v_set1(-104), x)",
     "v_max(v_set1(-88), x)", "test_attention"),
    ("epsilon is 1e-5 for all", "run.c", "c->dim, c->norm_eps)", "c->dim, 1e-5f)", "test_run"),
    ("epsilon is outside the root", "run.c", "sqrtf(dot(x, x, n) / (float)n + eps)",
     "(sqrtf(dot(x, x, n) / (float)n) + eps)", "test_run"),
    ("norm weights are not applied", "run.c", "y[i] = x[i] * scale * w[i];",
     "y[i] = x[i] * scale, (void)w;", "test_run"),
    ("gate and up are swapped", "run.c",
     "linear(e, e->gate, e->normed, &w->w_gate[layer], n);\n"
     "    linear(e, e->up, e->normed, &w->w_up[layer], n);",
     "linear(e, e->gate, e->normed, &w->w_up[layer], n);\n"
     "    linear(e, e->up, e->normed, &w->w_gate[layer], n);", "test_run"),
    ("silu without its x", "cpu/attend.h", "v_div(g, v_add(", "v_div(v_set1(1), v_add(",
     "test_run"),
    ("feed-forward reads the attention's norm", "run.c",
     "rmsnorm_rows(e->normed, e->x, &w->ffn_norm[layer], n, c);",
     "rmsnorm_rows(e->normed, e->x, &w->attn_norm[layer], n, c);", "test_run"),
    ("first layer's weights everywhere", "run.c", "&w->w_down[layer]", "&w->w_down[0]",
     "test_run"),
    ("the output is not normed", "run.c", "rmsnorm_rows(e->normed, e->x, w->out_norm, wanted, c);",
     "memcpy(e->normed, e->x, (size_t)wanted * dim * 4);", "test_run"),
    ("a tied head is not found", "opencoder.h", 'c->tied = !gguf_tensor(g, "output.weight");',
     "c->tied = false;", "test_run"),
    ("an untied head is not used", "run.c", "c->tied ? w->tok_emb : w->out", "w->tok_emb",
     "test_run"),
    ("wanted rows come in the wrong place", "run.c",
     "memmove(e->x + dim * (size_t)wanted++, e->x + dim * (size_t)i, dim * 4)",
     "memmove(e->x + dim * (size_t)wanted, e->x + dim * (size_t)wanted, dim * 4), wanted++",
     "test_run"),
    ("the exact path is not exact", "matmul.c", "->block > 1 && !exact;", "->block > 1;",
     "test_run test_format"),

    # sampling and chat
    ("top-p compares the other way", "run.c", "sum < s->top_p * total", "sum > s->top_p * total",
     "test_sample"),
    ("the penalty rewards", "run.c", "*l = *l > 0 ? *l / s", "*l = *l < 0 ? *l / s",
     "test_sample"),
    ("each repeat is penalized", "run.c", "if (!seen) *l = *l > 0", "if (!seen || 1) *l = *l > 0",
     "test_sample"),
    ("min-p is ignored", "run.c", "c[i].p >= s->min_p * best", "c[i].p >= 0 * best", "test_sample"),
    ("no line feed after <|im_end|>", "run.c",
     'ids_add(&c->ids, c->im_end);\n'
     '    tokenizer_encode(c->s->tokenizer, "\\n", 1, false, &c->ids);',
     'ids_add(&c->ids, c->im_end);', "test_chat"),
    ("another system message", "opencoder.h", "created by OpenCoder Team.\"",
     "created by OpenCoder team.\"", "test_chat"),
    ("the last token of a cut answer is lost", "run.c", "if (last >= 0) ids_add(&c->ids, last);",
     "(void)last;", "test_chat"),
    ("/reset keeps the penalty", "run.c", "c->s->sampler.n_recent = 0;", ";", "test_chat"),
    ("/reset keeps the context", "run.c", "c->s->backend->cut(c->s->engine, 0, c->s->pos = 0);",
     ";", "test_chat"),

    # speculation
    ("any token passes for the proposed one", "speculate.h",
     "s->row + 1 < s->rows && s->token[pos] == id;", "s->row + 1 < s->rows;", "test_speculate"),
    ("the logits are a row behind", "speculate.h", "(size_t)++s->row * s->n_vocab",
     "(size_t)s->row++ * s->n_vocab", "test_speculate"),
    ("proposals go beyond the context", "speculate.h",
     "s->most < s->n_ctx - 1 - pos ? s->most : s->n_ctx - 1 - pos;", "s->most;", "test_speculate"),
    ("lookup proposes what it has found", "speculate.h", "s->match = i + 1;", "s->match = i;",
     "test_speculate"),
    ("the draft believes its old cache", "draft.h", "&& d->cached[same] == token[same]) same++;",
     ") same++;", "test_speculate"),
    ("a draft of any vocabulary", "draft.h", "if (draft->token[i].n != v->token[i].n ||",
     "if (0 && draft->token[i].n != v->token[i].n &&", "test_speculate"),
    ("the draft does not read the newest token", "draft.h",
     "draft_feed(d, token, n_tokens + made);", "draft_feed(d, token, n_tokens - !made + made);",
     "test_speculate"),

    # conversion
    ("q and k keep Hugging Face's order of rows", "export/convert.c",
     "spec[i].permuted && s->halves ? permute_row : NULL",
     "spec[i].permuted && s->halves ? NULL : NULL", "test_run"),
    ("k keeps Hugging Face's order of rows", "opencoder.h",
     's->permuted = strstr(name, "attn_q.") || strstr(name, "attn_k.");',
     's->permuted = strstr(name, "attn_q.");', "test_run"),
    ("rows are permuted the wrong way round", "export/source.c",
     "return head * head_dim + i / 2 + (i % 2) * (head_dim / 2);",
     "return head * head_dim + (2 * i) % head_dim + 2 * i / head_dim;", "test_run"),
    ("head_dim is not read", "export/hfconfig.c", '"head_dim", false', '"head_dim_", false',
     "test_run"),
    ("rope_parameters are not read", "export/hfconfig.c", '"rope_parameters", &theta',
     '"rope_parameters_", &theta', "test_run"),
    ("rms_norm_eps is not read", "export/hfconfig.c", '"rms_norm_eps", false',
     '"rms_norm_eps_", false', "test_run"),
    ("the way back does not undo the order of rows", "export/source.c",
     "(i < half ? 2 * i : 2 * (i - half) + 1)", "i", "test_cli"),

    # adapters
    ("an adapter's scale is alpha", "lora.h", "(double)l->alpha / p->rank)", "(double)l->alpha)",
     "test_lora"),
    ("--lora-scale is ignored", "lora.h", "(float)(factor * (double)l->alpha",
     "(float)((double)l->alpha", "test_lora"),
    ("scale 0 still adds", "lora.h", "if (!l || l->factor == 0)", "if (!l)", "test_lora"),
    ("any A will do", "lora.h",
     'if (!lora_shape(a, a->rows, specs[i].cols, "rank x columns of the model\'s weight", e) ||',
     "if (", "test_lora"),
    ("any B will do", "lora.h", "!lora_shape(b, specs[i].rows, a->rows,",
     "!lora_shape(b, b->rows, b->cols,", "test_lora"),
    ("a lora_b alone is left out", "lora.h", "if (!gguf_tensor(g, partner))",
     "if (0 && !gguf_tensor(g, partner))", "test_lora"),
    ("an adapter's numbers are not checked", "lora.h", "ok && i < l->gguf.n_tensors",
     "0 && i < l->gguf.n_tensors", "test_lora"),
    ("the adapter of another architecture", "lora.h", '"general.architecture", "llama", e)',
     '"general.type", "adapter", e)', "test_lora"),
    ("a base of 8 bits rounds the adapter", "run.c", "matmul(e->low, x, &p->a, n, true);",
     "matmul(e->low, x, &p->a, n, e->opt.exact);", "test_lora"),
    ("an adapter counts for the first token only", "run.c",
     "for (size_t i = 0; i < (size_t)n * (size_t)w->rows; i++) y[i] +=",
     "for (size_t i = 0; i < (size_t)w->rows; i++) y[i] +=", "test_lora"),
    ("the head has no adapter", "run.c", "linear(e, e->logits, e->normed, c->tied ? w->tok_emb : "
     "w->out, wanted);", "matmul(e->logits, e->normed, c->tied ? w->tok_emb : w->out, wanted, "
     "e->opt.exact);", "test_lora"),
    ("merged rows of B keep GGUF's order", "export/stream.c",
     "m.halves = m.pair->permuted && s->halves;", "m.halves = false;", "test_lora"),
    ("all rows of B are turned", "export/stream.c", "m.halves = m.pair->permuted && s->halves;",
     "m.halves = s->halves;", "test_lora"),
    ("merging forgets the same type", "export/stream.c", "t->type == type && !merge->pair;",
     "t->type == type;", "test_lora"),
    ("a row is always one dimension", "gguf.h",
     "gguf_add_dims(w, name, type, 2, rows, cols);",
     "gguf_add(w, name, type, rows, cols);", "test_format"),

    # the file format
    ("checksums of tensors are not compared", "gguf.h", "if (got != want)\n        return fail",
     "if (got != want && 0)\n        return fail", "test_format"),
    ("padding is not looked at", "gguf.h", "if (*end) return fail", "if (*end && 0) return fail",
     "test_format"),
    ("offsets have 32 bits", "gguf.h", "t->data = g->base + g->data_start + offset[i];",
     "t->data = g->base + g->data_start + (uint32_t)offset[i];", "test_format"),
    ("strings may run past the end", "files.h",
     "if ((uint64_t)(c->end - c->p) < n) return NULL;",
     "if ((uint64_t)(c->end - c->p) + 1 < n) return NULL;", "test_format"),
    ("an f32 key loses precision", "gguf.h", "memcpy(out, k->data, 4);\n    if (!isfinite",
     "memcpy(out, k->data, 4), *out = (float)(int)*out;\n    if (!isfinite", "test_format"),

    # storage types and products
    ("q4_0 is centred on 7", "quants.c", "type == T_Q4_0 ? 8", "type == T_Q4_0 ? 7",
     "test_format"),
    ("q5_0's fifth bits are one off", "quants.c", "(fifth >> (i + 16) & 1)",
     "(fifth >> (i + 15) & 1)", "test_format"),
    ("q5_k's minimum is added", "quants.c", "m[j] = -(load_half(block + 2) * min);",
     "m[j] = load_half(block + 2) * min;", "test_format"),
    ("q6_k takes one scale for 32", "quants.c", "scale[2 * r + i / 16]", "scale[2 * r]",
     "test_format"),
    ("iq4_nl has a wrong level", "cpu/kernels.h", "1,    13,   25,", "1,    14,   25,",
     "test_format"),
    ("float16 is truncated", "cpu/kernels.h", "body += 0xfff + (body >> 13 & 1);", "body += 0;",
     "test_format"),
    ("bfloat16 is truncated", "cpu/kernels.h", "bits + 0x7fff + (bits >> 16 & 1)", "bits",
     "test_format"),
    ("q8_0 rounds down", "quants.c", "roundf(x[i] * inverse)", "floorf(x[i] * inverse)",
     "test_format"),
    ("q4_0 is coded with other scales than searched", "quants.c", "return xq[best] / qq[best]",
     "return 1.1f * xq[best] / qq[best]", "test_format"),
    ("q4_0's search stops at the first scale", "quants.c", "qq[s]) best = s;", "qq[s]) best = 0;",
     "test_format"),
    ("q4_0 keeps a scale below 0 without need", "quants.c", "bool turn = d < 0 && least > 0;",
     "bool turn = false;", "test_format"),
    ("KL is taken the other way round", "perplexity.h", "exp(log_p) * (log_p - log_q)",
     "exp(log_q) * (log_q - log_p)", "test_cli"),
    ("a sum depends on the size of the batch", "cpu/floats.h", "y[r] = in_order(sum[r][t]);",
     "y[r] = in_order(sum[r][t]) * (j->n > 1 ? 1.0000002f : 1);", "test_format"),
    ("the last columns are left out", "cpu/floats.h",
     "for (size_t k = 0; k < cols; k += LANES) {",
     "for (size_t k = 0; k + LANES <= cols; k += LANES) {", "test_format"),
    ("few tokens: the last rows are left out", "matmul.c", "r < rows; r += DEAL)",
     "r < rows / DEAL * DEAL; r += DEAL)", "test_format"),
    ("many tokens: the last rows are left out", "matmul.c", "r < rows; r += block * width)",
     "r < rows / width * width; r += block * width)", "test_format"),
    ("many tokens: every block has the first tokens", "matmul.c",
     "float_many(y + t * rows, x + t * cols,", "float_many(y + t * rows, x,", "test_format"),
    ("many tokens: the last chain alone counts", "matmul.c", "l > 0);",
     "l > 0 && l + 1 < lanes);", "test_format"),
    ("many tokens: a panel ends before its last step", "matmul.c", "tile->run(m->kc, x,",
     "tile->run(m->kc - 1, x,", "test_format"),
    ("the last panel has all its rows", "matmul.c",
     "rows - r0 < p->rows ? rows - r0 : p->rows;", "p->rows;", "test_int8"),
    ("chains fold in another order", "matmul.c", "{ 0, 4, 2, 6, 1, 5, 3, 7 }",
     "{ 0, 1, 2, 3, 4, 5, 6, 7 }", "test_int8"),
    ("the last tile of tokens is missing", "matmul.c", "((size_t)n + p.tokens - 1) / p.tokens;",
     "(size_t)n / p.tokens;", "test_int8"),
    ("Inf in x passes for zero", "matmul.c", "largest < INFINITY ? largest / 127 : NAN;",
     "largest < INFINITY ? largest / 127 : 0;", "test_int8"),
    ("a minimum meets half a block", "matmul.c", "s[b] = d[b] * (float)(first + second);",
     "s[b] = d[b] * (float)first;", "test_int8"),
    ("plain's chains are one", "cpu/plain.c", "MULTIPLY_ADD((float)dot, d[j] * x->d[at / 32], "
     "acc[t][j]);", "MULTIPLY_ADD((float)dot * d[j], x->d[at / 32], acc[t][j]);", "test_int8"),
    ("16 bits hold too many products", "cpu/int8_avx2.h",
     "if (five || type == T_Q4_0)\n            start =", "if (type == T_Q4_0)\n            start =",
     "test_int8"),
    ("the row's end is read from the next row", "cpu/int8_x86.h",
     "memcpy(end, row, row_bytes(type, (size_t)cols - k));\n            p = end;",
     "memcpy(end, row, row_bytes(type, (size_t)cols - k));", "test_int8"),

    # the products of training
    ("a sum forgets the K-blocks before", "gemm.c", "p.add = flags & GEMM_ADD || p.k0;",
     "p.add = flags & GEMM_ADD;", "test_gemm"),
    ("what stood in C stays", "gemm.c", "p.add = flags & GEMM_ADD || p.k0;", "p.add = true;",
     "test_gemm"),
    ("a tile may cross the border of C", "gemm.c", "if (m == rows && n == cols) {",
     "if (m == rows) {", "test_gemm"),
    ("the tile at the border loses C", "gemm.c", "c[q] + whole[r * cols + q] :",
     "whole[r * cols + q] :", "test_gemm"),
    ("the second group of a panel holds the first", "gemm.c", "lanes > 0 ? in + l + s : in,",
     "lanes > 0 ? in + l : in,", "test_gemm"),
    ("blocks of C keep the first rows of A", "gemm.c", "first += o->from;", ";", "test_gemm"),
    ("stored columns begin at a block", "gemm.c", "in = unpacked[0] + (first - from);",
     "in = unpacked[0];", "test_gemm"),
    ("a stored matrix on its side is upright", "gemm.c",
     "o.rows = m.stored ? lanes_are_rows != m.transposed", "o.rows = m.stored ? lanes_are_rows",
     "test_gemm"),
    ("threads share the scratch of gemm_here", "gemm.c", "static _Thread_local _Alignas(64)",
     "static _Alignas(64)", "test_gemm"),
    ("the K-block depends on the threads", "gemm.c", "p.kc = at_most(KC, k - p.k0);",
     "p.kc = at_most(share ? KC : k, k - p.k0);", "test_gemm"),

    # the tokenizer
    ("numbers are cut into runs of four", "tokenizer.c", "first, NUMBER, 2)", "first, NUMBER, 3)",
     "test_tokenizer"),
    ("the last space stays behind", "tokenizer.c", "return i < n && last ? last : i;",
     "return i;", "test_tokenizer"),
    ("contractions are cut in lower case only", "tokenizer.c", "!strncasecmp(s + 1, tail[i],",
     "!strncmp(s + 1, tail[i],", "test_tokenizer"),
    ("of equal joins the rightmost is first", "tokenizer.c", "a->left < b->left)",
     "a->left > b->left)", "test_tokenizer"),
    ("malformed UTF-8 becomes U+FFFD everywhere", "tokenizer.c",
     "if (code == MALFORMED && !t->vocab->opencoder) *to", "if (code == MALFORMED) *to",
     "test_tokenizer"),
    ("every unknown character is a token", "tokenizer.c", "e->after_unknown = id < 0;",
     "e->after_unknown = false;", "test_tokenizer"),
    ("special tokens are plain text", "tokenizer.c", "for (size_t i = 0; special && i < n;",
     "for (size_t i = 0; special && i < 0 * n;", "test_tokenizer"),

    # learning a vocabulary, packing shards
    ("of equal pairs the longer is first", "data/bpe.c",
     "l->symbol[a.id].chars < l->symbol[b.id].chars;",
     "l->symbol[a.id].chars > l->symbol[b.id].chars;", "test_vocab"),
    ("counts that have sunk stay as they were", "data/bpe.c",
     "if (s->count == e.count) return e.id;", "return e.id;", "test_vocab"),
    ("pairs that went are still counted", "data/bpe.c", "s->count += add ? count : -count;",
     "s->count += add ? count : 0;", "test_vocab"),
    ("of equal joins the rightmost is first, in training", "data/bpe.c",
     "if (rank[i] < rank[at]) at = i;", "if (rank[i] <= rank[at]) at = i;", "test_vocab"),
    ("pieces may be one longer", "data/bpe.c", "if (chars > l->max_chars) return NONE;",
     "if (chars > l->max_chars + 1) return NONE;", "test_vocab"),
    ("tables of threads are not added up", "data/vocab.c", "->value += w->value;",
     "->value += 0 * w->value;", "test_vocab"),
    ("characters by code point", "data/vocab.c",
     "if (x->count != y->count) return x->count < y->count ? 1 : -1;", ";", "test_vocab"),
    ("files are cut anywhere", "data/texts.c", "for (size_t i = from + 1; i < n; i++)",
     "return from < n ? from : n;\n    for (size_t i = from + 1; i < n; i++)", "test_pack"),
    ("NUL is text", "data/texts.c", "if (!len || !s[i])", "if (!len)", "test_vocab test_pack"),
    ("the header is learned", "data/pack.c", "? from + p->n_header : w->ids.n;",
     "? from : w->ids.n;", "test_pack"),
    ("the end of an answer is not learned", "data/pack.c",
     "answer ? ids_add(&w->ids, p->im_end) : add_unlearned(w, p->im_end);",
     "add_unlearned(w, p->im_end);", "test_pack"),
    ("answers end without a line feed", "data/pack.c", 'if (answer) buf_add(run, "\\n", 1);', ";",
     "test_pack"),
    ("every conversation gets the default system", "data/pack.c",
     'else if (!str_is(role, "system"))', "else", "test_pack"),
    ("words are remembered too long", "data/pack.c",
     "words_clear(&w->words);\n        w->known.n = 0;", "w->known.n = 0;", "test_pack"),
    ("the same order for every seed", "data/pack.c", "uint64_t state = mix64(seed);",
     "uint64_t state = mix64(seed * 0);", "test_pack"),
    ("documents end without the end id", "data/pack.c",
     "if (part->last) chat ?", "if (part->last && part->doc->line) chat ?", "test_pack"),
    ("a shard's checksum is not compared", "shards.h",
     "if (crc == s->head.data_crc) return true;", "return crc >= s->head.data_crc || 1;",
     "test_shards"),
    ("narrow tokens are counted with their marks", "shards.h", "(token[done + i] & ~NO_LOSS)",
     "(token[done + i])", "test_shards"),

    # training; names begin with "train" so that they can be chosen together
    ("train: rmsnorm's gradient without the mean", "train.c",
     "dx_t[i] += r_t * (w[i] * dy_t[i] - x_t[i] * mean)",
     "dx_t[i] += r_t * w[i] * dy_t[i] + 0 * mean",
     "test_ops"),
    ("train: the residual's gradient is lost", "train.c",
     "dx_t[i] += r_t * (w[i]", "dx_t[i] = r_t * (w[i]", "test_ops"),
    ("train: norms' gradients are overwritten", "train.c", "dw[i] += dy_t[i] * x_t[i] * r[t];",
     "dw[i] = dy_t[i] * x_t[i] * r[t];", "test_ops"),
    ("train: rope's gradient turns forward", "train.c",
     "rope(t->dk, t->cosine, t->sine, t->pos, n, K, D, -1);",
     "rope(t->dk, t->cosine, t->sine, t->pos, n, K, D, 1);", "test_train"),
    ("train: silu's slope without its second part", "train.c",
     "gate[i] = d * u * s * (1 + g * (1 - s));", "gate[i] = d * u * s;", "test_ops"),
    ("train: the loss of marked targets counts", "train.c",
     "bool counts = !(target[t] & NO_LOSS);", "bool counts = true;", "test_ops"),
    ("train: the target is not subtracted", "train.c", "l[id] -= scale;", "l[id] -= 0 * scale;",
     "test_ops"),
    ("train: the loss is not scaled", "train.c", "float factor = scale / sum;",
     "float factor = 1 / sum;", "test_ops"),
    ("train: a token that comes twice counts once", "train.c", "dw_t[i] += dx_t[i];",
     "dw_t[i] = dx_t[i];", "test_ops"),
    ("train: a query sees the next key", "train.c",
     "int begin = a->first[t] - from, end = t + 1 - from;\n    for (int u = 0; u < begin; u++)",
     "int begin = a->first[t] - from, end = t + 2 - from < keys ? t + 2 - from : keys;\n"
     "    for (int u = 0; u < begin; u++)", "test_ops"),
    ("train: keys of the document before are seen", "train.c",
     "for (int u = 0; u < begin; u++) p[u] = 0;", "begin = 0;", "test_ops"),
    ("train: ds without its sum", "train.c", "p[row + u] * (ds[row + u] - sum) * a->scale;",
     "p[row + u] * (ds[row + u] - 0 * sum) * a->scale;", "test_ops"),
    ("train: ds without 1/sqrt(D)", "train.c", "(ds[row + u] - sum) * a->scale;",
     "(ds[row + u] - sum);", "test_ops"),
    ("train: dv of the last query head alone", "train.c",
     "gemm_here(dv + past, a->kv_row, transposed(p, (size_t)keys), strided(dout, a->q_row), keys,\n"
     "                  a->D, n, GEMM_ADD);",
     "gemm_here(dv + past, a->kv_row, transposed(p, (size_t)keys), strided(dout, a->q_row), keys,\n"
     "                  a->D, n, 0);", "test_ops"),
    ("train: dk is not cleared", "train.c", "memset(t->dk, 0, kv * sizeof *t->dk);", ";",
     "test_ops"),
    ("train: grouped heads: h % K", "train.c", "(size_t)(h / (c->n_heads / c->n_kv_heads)) * D;",
     "(size_t)(h % c->n_kv_heads) * D;", "test_ops"),
    ("train: weight gradients are overwritten", "train.c",
     "dy_t, inputs, out, in, n, GEMM_ADD | t->flags);", "dy_t, inputs, out, in, n, t->flags);",
     "test_ops"),
    ("train: LoRA's scale is alpha", "train.c",
     "float scale = t->opt.lora_alpha / (float)rank;\n    gemm(t->z,",
     "float scale = t->opt.lora_alpha;\n    gemm(t->z,", "test_agree"),
    ("train: LoRA's way back is not scaled", "train.c", "t->dz[i] *= scale;",
     "t->dz[i] *= 1 + 0 * scale;", "test_ops"),
    ("train: LoRA's part of dx is left out", "train.c",
     "strided(l->a, (size_t)in), n, in, rank,\n         GEMM_ADD);",
     "strided(l->a, (size_t)in), 0, in, rank,\n         GEMM_ADD);", "test_ops"),
    ("train: two tokens at every position", "train.c", "t->pos[i] = u - first;",
     "t->pos[i] = (u - first) / 2;", "test_agree"),
    ("train: STARTS is ignored", "train.c", "if (at[0] & STARTS) first = u;", ";", "test_agree"),
    ("train: STARTS one token late", "train.c", "if (at[0] & STARTS) first = u;",
     "if (u && at[-1] & STARTS) first = u;", "test_agree"),
    ("train: theta is ignored", "train.c", "pow((double)t->model.config.rope_theta, exponent)",
     "pow(10000.0, exponent)", "test_agree"),
    ("train: a tied head gives no gradient", "train.c",
     "t->d_head = param_in(t, t->grads, t->head->name, \"\");",
     "t->d_head = t->model.config.tied ? NULL : param_in(t, t->grads, t->head->name, \"\");",
     "test_train"),
    ("train: recompute keeps the last layer's numbers", "train.c",
     "if (t->opt.recompute && i + 1 < c->n_layers) layer_forward(t, l, t->x_out, B, T);", "",
     "test_train"),
    ("train: recompute without one memory", "train.c", "if (i && t->opt.recompute)", "if (0)",
     "test_ops"),
    ("train: the second chunk overwrites the head's gradient", "train.c",
     "(int)V, (int)C, (int)rows,\n                 GEMM_ADD | t->flags);",
     "(int)V, (int)C, (int)rows,\n                 (i ? 0 : GEMM_ADD) | t->flags);", "test_ops"),
    ("train: no bias correction of v", "train.c",
     "float root = (float)sqrt(1 - pow((double)o->beta2, (double)step));", "float root = 1;",
     "test_train"),
    ("train: no bias correction of m", "train.c",
     "float rate = lr / (float)(1 - pow((double)o->beta1, (double)step));", "float rate = lr;",
     "test_train"),
    ("train: epsilon is inside the root", "train.c", "(sqrtf(v[k]) / root + o->eps)",
     "(sqrtf(v[k] + o->eps) / root)", "test_train"),
    ("train: norms decay", "train.c", "p->decays = rows > 1 || *suffix;", "p->decays = true;",
     "test_train"),
    ("train: A and B do not decay", "train.c", "p->decays = rows > 1 || *suffix;",
     "p->decays = rows > 1 && !*suffix;", "test_train"),
    ("train: the clipping factor is ignored", "train.c", "float g = dw[k] * factor;",
     "float g = dw[k] + 0 * factor;", "test_train"),
    ("train: an update leaves the gradients", "train.c", "dw[k] = 0;", ";", "test_train"),
    ("train: another tensor is blamed", "train.c",
     "isfinite(param_norm(t, t->grads, i))) snprintf(bad, 64, \"%s\", t->param[i].name)",
     "isfinite(param_norm(t, t->grads, i))) snprintf(bad, 64, \"%s\", t->param[0].name)",
     "test_train"),
    ("train: v starts anew after a restart", "train.c",
     "load_block(t, t->m, g, \"opt.m.\") && load_block(t, t->v, g, \"opt.v.\")",
     "load_block(t, t->m, g, \"opt.m.\")", "test_train"),
    ("train: A of rank 1 is saved as a vector", "train.c", "p->decays ? 2 : 1,",
     "p->rows > 1 ? 2 : 1,", "test_train"),
    # the loop
    ("loop: the place in the data is forgotten", "train.c",
     "memcpy(&r->data.source[i].used, cursors->data + 16 * i, 8);", "", "test_trainloop"),
    ("loop: the shares of the sources are forgotten", "train.c",
     "memcpy(&r->data.source[i].rows, cursors->data + 16 * i + 8, 8);", "", "test_trainloop"),
    ("loop: the mean that tells spikes is forgotten", "train.c",
     "memcpy(&r->mean_loss, mean->data, 8);", "", "test_trainloop"),
    ("loop: an annealing corrects the bias anew", "checkpoint.h",
     "if (value < 0 || value >> 56) return false; /* sums of a few stay below 2^63 */\n"
     "    *out = value;", "*out = strcmp(name, \"updates\") ? value : 0;", "test_trainloop"),
    ("loop: the shuffle depends on the batch", "loader.h",
     "mix_key(l->seed, (uint64_t)which, k / n)", "mix_key(l->seed, (uint64_t)which, k / n + k)",
     "test_loader"),
    # ARM, under an emulator
    ("neon: the fifth row takes the sixth's number", "cpu/neon.c", "sum[4][j], bj, a45, 0)",
     "sum[4][j], bj, a45, 1)", "test_neon"),
    ("neon: both halves of a block have one scale", "cpu/int8_neon.h",
     "int16x8_t s = vmovl_s8(vget_low_s8(vuzp1q", "int16x8_t s = vmovl_s8(vget_low_s8(vuzp2q",
     "test_neon"),
    ("neon: a token takes its neighbour's lane", "cpu/int8_neon.h",
     'SDOT(dot[3].high, w1, q, "4b[3]")', 'SDOT(dot[3].high, w1, q, "4b[2]")', "test_neon"),
    ("neon: every CPU is believed to have sdot", "cpu/dotprod.c",
     "return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;", "return true;", "test_neon"),
    # the GPU
    ("cuda: rope turns the other way", "cuda/decode.h", "v * a[0] - other * a[1];",
     "v * a[0] + other * a[1];", "test_cuda"),
    ("cuda: keys are not turned", "cuda/decode.h", "if (kv < p->cache.n_kv_heads) {\n        const",
     "if (kv < 0) {\n        const", "test_cuda"),
    ("cuda: a prompt's keys are not turned", "runcuda.cu", "if (kv < cache.n_kv_heads) {",
     "if (kv < 0) {", "test_cuda"),
    ("cuda: gate and up are swapped", "cuda/decode.h", "silu(v) * other);", "silu(other) * v);",
     "test_cuda"),
    ("cuda: gate and up of a prompt are swapped", "runcuda.cu",
     "v[i] = silu(a[2 * i]) * a[2 * i + 1];", "v[i] = silu(a[2 * i + 1]) * a[2 * i];", "test_cuda"),
    ("cuda: the sum of a tile lacks a warp", "cuda/decode.h",
     "for (int w = 0; w < WARPS; w++) v += s[w * tok * 16];",
     "for (int w = 1; w < WARPS; w++) v += s[w * tok * 16];", "test_cuda"),
    ("cuda: no barrier before a tile is summed", "cuda/decode.h",
     "__syncthreads(); /* the shares of all warps", "/* the shares of all warps", "test_cuda"),
    ("cuda: the input is not waited for", "cuda/decode.h", "    pdl_wait(); /*", "    /*",
     "test_cuda"),
    ("cuda: scales of the even rows for all", "cuda/decode.h",
     "uint32_t so = (i < 2 ? odd.x : odd.y)", "uint32_t so = (i < 2 ? even.x : odd.y)",
     "test_cuda"),
    ("cuda: q4 halves are swapped", "runcuda.cu", "(low | high << 4) ^ 0x88",
     "(high | low << 4) ^ 0x88", "test_cuda"),
    ("cuda: staging does not wait", "runcuda.cu",
     "CUDA(cudaEventSynchronize(u->free_again[u->next ^= 1]));", "u->next ^= 1;", "test_cuda"),
    ("cuda: the mask lets a token see the next", "cuda/attention.h",
     "col + n * 8 + i % 2 <= last[half]", "col + n * 8 + i % 2 <= last[half] + 1", "test_cuda"),
    ("cuda: old sums are not scaled", "cuda/attention.h", "r->l[half] *= old;", "", "test_cuda"),
    ("cuda: splits are merged without their maxima", "cuda/attention.h",
     "float w = exp2f(p[s * (D + 2)] - m);", "float w = 1;", "test_cuda"),
    ("cuda: values are read before they are there", "cuda/attention.h",
     "        cp_async_wait<1>(); /* values are there, the next keys on their way */\n", "",
     "test_cuda"),
    ("cuda: the ticket is not given back", "cuda/attention.h",
     "if (threadIdx.x == 0) *ticket = 0;", "", "test_cuda"),
    ("cuda: plain attention forgets the old maximum", "runcuda.cu",
     "l = l * old + p;", "l = l + p;", "test_cuda"),
    ("cuda: sequences share a tile", "runcuda.cu", "n_tiles && t[-1].seq == b->seq[i] &&",
     "n_tiles &&", "test_cuda"),
    ("cuda: unused tokens may be likeliest", "cuda/decode.h", " && !p->unused[row]", "",
     "test_cuda"),
    ("cuda: the adapter is left out", "runcuda.cu", "if (p) add_adapter(x, p, at);", "",
     "test_cuda"),
    ("cuda: more rows are called equal than are", "runcuda.cu", "e->few > 1 ? e->few : 1", "FEW",
     "test_cuda"),
    ("cuda: scales of q8 one block late", "runcuda.cu", "memcpy(&scales[b], row, 2);",
     "memcpy(&scales[b], row + (b ? 0 : kind == Q8 ? 34 : 18), 2);", "test_cuda"),
    ("cuda: out of memory is any error", "runcuda.cu",
     "if (error == cudaErrorMemoryAllocation) {", "if (error == cudaErrorUnknown) {", "test_cuda"),
    ("speculation goes beyond what is equal", "engine.h", "return equal < most ? equal : most;",
     "return equal < most ? most : most;", "test_cuda"),
    # many prompts at once
    ("prompts: all are fed to one sequence", "prompts.h", "seqs[i] = seq;", "seqs[i] = seq * 0;",
     "test_prompts"),
    ("prompts: texts are drawn by one sampler", "prompts.h", "sample(&w->sampler,",
     "sample(&p->sampler,", "test_prompts"),
    ("prompts: the stop text stays", "prompts.h",
     "if (end < c->text.n) c->text.data[c->text.n = end] = 0;", "", "test_prompts"),
    ("prompts: a stop text over two tokens is missed", "prompts.h",
     "from = before > n ? before - n : 0;", "from = before;", "test_prompts"),
    ("prompts: the context is one shorter", "prompts.h", "else if (w->pos == p->n_ctx)",
     "else if (w->pos == p->n_ctx - 1)", "test_prompts"),
    ("prompts: lines come out as they end", "run.c",
     "f->printed < f->n && f->all[f->printed].end", "f->printed < f->n && f->all[f->printed].n",
     "test_prompts"),
]


def make(*goals):
    return subprocess.run(["make", "-s", "-j2", "CFLAGS=-O1 -march=native -w", *goals], cwd=TREE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")


def build(tests):
    """Everything that the tests start; returns what the compiler said, None when all is well."""
    programs = ["build/tests/" + test for test in tests
                if os.path.exists(os.path.join(TREE, "tests", test + ".c"))]
    done = make("all", "emu", *programs, *["neon"] * ("test_neon" in tests))
    return done.stdout if done.returncode else None


def run_tests(tests):
    """None when all pass, else the first complaint."""
    done = subprocess.run([sys.executable, "tests/run_tests.py", "--timeout", "120", *tests],
                          cwd=TREE, stdout=subprocess.PIPE, text=True, errors="replace")
    bad = [line.strip() for line in done.stdout.splitlines() if line.startswith("  FAIL")]
    return (bad[0] if bad else done.stdout.strip()) if done.returncode else None


def try_mutant(name, file, old, new, tests):
    path = os.path.join(TREE, file)
    with open(path, encoding="utf-8") as source:
        text = source.read()
    if text.count(old) != 1:
        check(name, False, f"{file} has {text.count(old)} times {old!r}, expected once")
        return
    with open(path, "w", encoding="utf-8") as source:
        source.write(text.replace(old, new))
    complaint = build(tests)
    if complaint is not None:
        check(name, False, f"does not compile: {complaint.strip()[:300]}")
    else:
        found = run_tests(tests)
        if check(name, found is not None, f"{' and '.join(tests)} still pass"):
            print(f"   {found[:150]}", flush=True)
    with open(path, "w", encoding="utf-8") as source:
        source.write(text)


def main():
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(w in m[0] for w in sys.argv[1:])]
    if not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")):
        chosen = [m for m in chosen if m[4] != "test_neon"]
        skip("the mutants for ARM", "a cross compiler or qemu is missing")
    shutil.rmtree(TREE, ignore_errors=True)
    shutil.copytree(ROOT, TREE, ignore=shutil.ignore_patterns("build", ".git", "models"))
    every = sorted({test for *_, tests in chosen for test in tests.split()})
    wrong = build(every) or run_tests(every)
    if not check("the tree without mutants passes", wrong is None, wrong):
        end()
    for name, file, old, new, tests in chosen:
        try_mutant(name, file, old, new, tests.split())
    print(f"{len(chosen)} mutants")
    end()


if __name__ == "__main__":
    main()
