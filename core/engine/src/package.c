/* package.c: open and verify packages (core/package.py has the format and the same rules in Python), and say what is in them. session.c runs them.

   Verification walks the blocks from the roots: each block once, with the types its inputs have; a second use must give the same. It recurses at most SX_MAX_DEPTH deep. */
#include "sx_package.h"

#define TABLES 14
static const int64_t MAGIC = 0x314b434150584453; /* "SDXPACK1" */

static int within(int64_t index, int64_t count) { return index >= 0 && index < count; }
static int spans(int64_t at, int64_t n, int64_t count) { return at >= 0 && n >= 0 && n <= count && at <= count - n; }

static int refuse(sx_report *report, int rule, int64_t row, int64_t a, int64_t b) { return sx_say(report, SX_E_FORMAT, rule, -1, row, a, b); }

/* -- tables ---------------------------------------------------------------------------------------------------------------------------------------- */

static int read_tables(sx_package *p, sx_report *report) {
#define TABLE(number, field, count, width) \
    if (!(p->field = sx_table_of(p->bytes, p->length, 2 + 2 * number, width, &p->count))) return refuse(report, SX_R_TABLE, number, 0, 0);
    TABLE(0, placed, n_programs, sizeof(sx_placed_row))
    TABLE(1, blocks, n_blocks, sizeof(sx_block_row))
    TABLE(2, segments, n_segments, sizeof(sx_segment_row))
    TABLE(3, lists, n_lists, 8)
    TABLE(4, variants, n_variants, sizeof(sx_variant_row))
    TABLE(5, places, n_constants, sizeof(sx_constant_row))
    TABLE(6, inputs, n_inputs, sizeof(sx_port_row))
    TABLE(7, outputs, n_outputs, sizeof(sx_port_row))
    TABLE(8, symbols, n_symbols, 8)
    TABLE(9, kinds, n_kinds, 16)
    TABLE(10, packings, n_packings, 16)
    TABLE(11, offsets, n_offsets, 8)
    TABLE(12, text, n_text, 1)
    TABLE(13, code, n_code, 8)
    return 0;
}

static int check_ports(const sx_package *p, const sx_port_row *ports, int64_t count, int number, sx_report *report) {
    for (int64_t i = 0; i < count; i++) {
        const sx_port_row *q = ports + i;
        int good = within(q->name, p->n_offsets - 1) && within(q->rank, SX_RANK + 1) && sx_item_bytes(q->dtype);
        for (int64_t d = 0; good && d < q->rank; d++) good = q->dim[d] >= -1 - p->n_symbols && q->dim[d] <= SX_LARGEST;
        if (!good) return refuse(report, SX_R_PACKAGE, i, number, q->rank);
    }
    return 0;
}

/* Every index and span of every row. Spans have nothing in common, so that what is made for them is no larger than the file. */
static int check_rows(const sx_package *p, sx_report *report) {
    int64_t listed = 0, held = 0;
    for (int64_t i = 0; i < p->n_offsets; i++)
        if (p->offsets[i] < (i ? p->offsets[i - 1] : 0) || p->offsets[i] > p->n_text) return refuse(report, SX_R_STRING, i, p->offsets[i], p->n_text);
    for (int64_t i = 0; i < p->n_programs; i++) {
        const sx_placed_row *r = p->placed + i;
        int good = spans(r->offset, r->words, p->n_code) && spans(r->constants, r->n_constants, p->n_lists);
        for (int64_t j = 0; good && j < r->n_constants; j++) good = within(p->lists[r->constants + j], p->n_constants);
        if (!good || (listed += r->n_constants) > p->n_lists) return refuse(report, SX_R_PACKAGE, i, 0, r->n_constants);
    }
    for (int64_t i = 0; i < p->n_blocks; i++) {
        const sx_block_row *b = p->blocks + i;
        int64_t most = b->n_in;
        int good = spans(b->inputs, b->n_in, p->n_lists) && spans(b->outputs, b->n_out, p->n_lists) && spans(b->segments, b->n_segments, p->n_segments);
        for (int64_t j = 0; good && j < b->n_segments; j++) good = within(p->segments[b->segments + j].n_out, p->n_lists + 1), most += good ? p->segments[b->segments + j].n_out : 0;
        if (!good || b->slots < 0 || b->slots > most || (listed += b->n_in + b->n_out) > p->n_lists || (held += b->n_segments) > p->n_segments) return refuse(report, SX_R_PACKAGE, i, 1, b->slots);
    }
    for (int64_t i = 0; i < p->n_segments; i++) {
        const sx_segment_row *s = p->segments + i;
        int good = within(s->kind, SX_DOS) && (s->device == SX_ON_ENGINE || (s->device == SX_ON_WEBGPU && s->kind == SX_DO_PROGRAM)) && spans(s->inputs, s->n_in, p->n_lists)
                   && spans(s->outputs, s->n_out, p->n_lists) && spans(s->blocks, s->n_blocks, p->n_lists) && spans(s->params, s->n_params, p->n_lists) && within(s->origin, p->n_offsets - 1)
                   && (s->kind == SX_DO_PROGRAM ? within(s->program, p->n_programs) : 1);
        if (!good || (listed += s->n_in + s->n_out + s->n_blocks + s->n_params) > p->n_lists) return refuse(report, SX_R_PACKAGE, i, 2, s->kind);
    }
    for (int64_t i = 0; i < p->n_variants; i++)
        if (!within(p->variants[i].block, p->n_blocks) || p->n_symbols > p->n_lists || !spans(p->variants[i].ranges, 2 * p->n_symbols, p->n_lists)) return refuse(report, SX_R_PACKAGE, i, 4, p->variants[i].block);
    for (int64_t i = 0; i < p->n_constants; i++) {
        const sx_constant_row *c = p->places + i;
        if (c->offset < -1 || c->offset > SX_LARGEST || !within(c->bytes, SX_LARGEST) || !within(c->item, 17) || (c->item && (c->offset < 0 || c->bytes % c->item))) return refuse(report, SX_R_PACKAGE, i, 5, c->bytes);
    }
    for (int64_t i = 0; i < p->n_symbols; i++)
        if (!within(p->symbols[i], p->n_offsets - 1)) return refuse(report, SX_R_PACKAGE, i, 8, p->symbols[i]);
    if (!p->n_variants) return refuse(report, SX_R_PACKAGE, 0, 4, 0);
    int code = check_ports(p, p->inputs, p->n_inputs, 6, report);
    return code ? code : check_ports(p, p->outputs, p->n_outputs, 7, report);
}

/* -- types of slots -------------------------------------------------------------------------------------------------------------------------------- */

static int check_block(sx_package *p, int64_t index, int depth, sx_report *report);

static sx_slot_type *slots_of(const sx_package *p, int64_t block) { return p->types + p->first_type[block]; }

static int alike(const sx_slot_type *a, const sx_slot_type *b) { return a->dtype == b->dtype && a->rank == b->rank; }
static int scalar(const sx_slot_type *t, int64_t dtype) { return t->dtype == dtype && t->rank <= 1; }

static int fill(sx_package *p, int64_t block, int64_t slot, const sx_slot_type *t, sx_report *report) {
    if (!within(slot, p->blocks[block].slots) || slots_of(p, block)[slot].dtype) return refuse(report, SX_R_SLOT, block, slot, 0);
    slots_of(p, block)[slot] = *t;
    slots_of(p, block)[slot].last = -1;
    return 0;
}

static sx_slot_type typed(int64_t dtype, int64_t rank) {
    sx_slot_type t = {.dtype = dtype, .rank = rank};
    for (int d = 0; d < SX_RANK; d++) t.dim[d] = -1;
    return t;
}

/* The next input of a block that is used: fills it, or compares where the block was met before. */
static int give(sx_package *p, int64_t block, int64_t number, sx_slot_type t, sx_report *report) {
    const sx_block_row *b = p->blocks + block;
    if (number >= b->n_in) return refuse(report, SX_R_BLOCK, block, SX_MAX_DEPTH, number);
    int64_t slot = p->lists[b->inputs + number];
    if (p->state[block] < 2) return fill(p, block, slot, &t, report);
    return alike(slots_of(p, block) + slot, &t) ? 0 : refuse(report, SX_R_BLOCK, block, SX_MAX_DEPTH, number);
}

/* Before its inputs are given: it must be there, and not one that is being verified. */
static int enter(sx_package *p, int64_t block, int64_t n_in, int depth, sx_report *report) {
    if (!within(block, p->n_blocks) || p->state[block] == 1 || p->blocks[block].n_in != n_in || depth + (p->state[block] ? p->state[block] - 2 : 0) > SX_MAX_DEPTH)
        return refuse(report, SX_R_BLOCK, block, SX_MAX_DEPTH, n_in);
    if (!p->state[block]) p->state[block] = 1;
    return 0;
}

/* After its inputs were given. */
static int leave(sx_package *p, int64_t block, int depth, sx_report *report) {
    if (p->state[block] >= 2) return 0;
    int code = check_block(p, block, depth, report), high = 0;
    const sx_block_row *b = p->blocks + block;
    for (int64_t i = 0; !code && i < b->n_segments; i++) {
        const sx_segment_row *s = p->segments + b->segments + i;
        for (int64_t k = 0; s->kind != SX_DO_PROGRAM && k < s->n_blocks; k++) {
            int below = p->state[p->lists[s->blocks + k]] - 1;
            high = below > high ? below : high;
        }
    }
    p->state[block] = (char)(2 + high);
    return code;
}

static sx_slot_type *output_of(const sx_package *p, int64_t block, int64_t number) { return slots_of(p, block) + p->lists[p->blocks[block].outputs + number]; }

static int check_program(sx_package *p, int64_t block, const sx_segment_row *s, sx_report *report) {
    const sx_program *q = p->programs[s->program];
    if (s->n_in != q->n_inputs || s->n_out != q->n_outputs) return refuse(report, SX_R_SEGMENT, block, s - p->segments, s->n_in);
    for (int64_t i = 0; i < s->n_in; i++) {
        sx_slot_type t = typed(q->inputs[i].dtype, q->inputs[i].rank);
        if (!alike(slots_of(p, block) + p->lists[s->inputs + i], &t)) return refuse(report, SX_R_SEGMENT, block, s - p->segments, i);
    }
    for (int64_t i = 0; i < s->n_out; i++) {
        const sx_port *port = q->outputs + i;
        sx_slot_type t = typed(port->dtype, port->rank);
        for (int64_t d = 0; d < port->rank; d++) {
            const sx_size *size = q->sizes + port->dim[d];
            t.dim[d] = size->op == SX_SIZE_CONST ? size->a : -1;
        }
        int code = p->lists[s->outputs + i] == -1 ? 0 : fill(p, block, p->lists[s->outputs + i], &t, report);
        if (code) return code;
    }
    return 0;
}

static int check_if(sx_package *p, int64_t block, const sx_segment_row *s, int depth, sx_report *report) {
    int64_t number = s - p->segments;
    if (s->n_blocks != 2 || s->n_in < 1 || !scalar(slots_of(p, block) + p->lists[s->inputs], SX_BOOL)) return refuse(report, SX_R_SEGMENT, block, number, s->n_blocks);
    for (int k = 0; k < 2; k++) {
        int64_t branch = p->lists[s->blocks + k];
        int code = enter(p, branch, s->n_in - 1, depth + 1, report);
        for (int64_t i = 1; !code && i < s->n_in; i++) {
            const sx_slot_type *t = slots_of(p, block) + p->lists[s->inputs + i];
            code = give(p, branch, i - 1, typed(t->dtype, t->rank), report);
        }
        if (!code) code = leave(p, branch, depth + 1, report);
        if (code) return code;
        if (p->blocks[branch].n_out != s->n_out) return refuse(report, SX_R_SEGMENT, block, number, s->n_out);
    }
    for (int64_t i = 0; i < s->n_out; i++) {
        const sx_slot_type *a = output_of(p, p->lists[s->blocks], i), *b = output_of(p, p->lists[s->blocks + 1], i);
        if (!alike(a, b)) return refuse(report, SX_R_SEGMENT, block, number, i);
        sx_slot_type t = *a;
        for (int d = 0; d < SX_RANK; d++) t.dim[d] = a->dim[d] == b->dim[d] ? a->dim[d] : -1;
        int code = p->lists[s->outputs + i] == -1 ? 0 : fill(p, block, p->lists[s->outputs + i], &t, report);
        if (code) return code;
    }
    return 0;
}

static int good_loop(const sx_package *p, const sx_segment_row *s) {
    if (s->n_params < 4 || s->n_blocks != 1) return 0;
    sx_loop l = sx_loop_of(p, s);
    int64_t most = p->n_lists;
    if (!within(l.counts, 2) || !within(l.carried, most) || !within(l.scanned, most) || !within(l.stacked, most)) return 0;
    if (s->n_params != 4 + 2 * (l.scanned + l.stacked) || s->n_in < 2 + l.carried + l.scanned || s->n_out != l.carried + l.stacked) return 0;
    for (int64_t i = 0; i < l.scanned + l.stacked; i++) {
        if (!within(l.pairs[2 * i + 1], 2) || l.pairs[2 * i] < 0) return 0;
        if (i >= l.scanned && l.counts && (l.pairs[2 * i] || l.pairs[2 * i + 1])) return 0;
    }
    return l.counts || (l.scanned > 0 && p->lists[s->inputs] == -1 && p->lists[s->inputs + 1] == -1);
}

static int check_loop(sx_package *p, int64_t block, const sx_segment_row *s, int depth, sx_report *report) {
    int64_t number = s - p->segments;
    if (!good_loop(p, s)) return refuse(report, SX_R_SEGMENT, block, number, s->n_params);
    sx_loop l = sx_loop_of(p, s);
    const sx_slot_type *slots = slots_of(p, block);
    const int64_t *in = p->lists + s->inputs, body = p->lists[s->blocks], rest = s->n_in - 2;
    if (l.counts && ((in[0] >= 0 && !scalar(slots + in[0], SX_INT64)) || (in[1] >= 0 && !scalar(slots + in[1], SX_BOOL)))) return refuse(report, SX_R_SEGMENT, block, number, 0);
    int64_t at = l.counts ? 2 : 0;
    int code = enter(p, body, at + rest, depth + 1, report);
    if (!code && l.counts) code = give(p, body, 0, typed(SX_INT64, 0), report);
    if (!code && l.counts) code = give(p, body, 1, typed(SX_BOOL, 0), report);
    for (int64_t i = 0; !code && i < rest; i++) {
        const sx_slot_type *t = slots + in[2 + i];
        int sliced = i >= l.carried && i < l.carried + l.scanned;
        if (sliced && !within(l.pairs[2 * (i - l.carried)], t->rank)) return refuse(report, SX_R_SEGMENT, block, number, i);
        code = give(p, body, at + i, typed(t->dtype, t->rank - sliced), report);
    }
    if (!code) code = leave(p, body, depth + 1, report);
    if (code) return code;
    int64_t first = l.counts ? 1 : 0;
    if (p->blocks[body].n_out != first + l.carried + l.stacked || (l.counts && !scalar(output_of(p, body, 0), SX_BOOL))) return refuse(report, SX_R_SEGMENT, block, number, p->blocks[body].n_out);
    for (int64_t i = 0; i < s->n_out; i++) {
        sx_slot_type t = *output_of(p, body, first + i);
        if (i < l.carried) {
            if (!alike(&t, slots + in[2 + i])) return refuse(report, SX_R_SEGMENT, block, number, i);
            t = typed(t.dtype, t.rank);
        } else {
            int64_t axis = l.pairs[2 * (l.scanned + i - l.carried)];
            if (t.rank >= SX_RANK || axis > t.rank) return refuse(report, SX_R_SEGMENT, block, number, i);
            for (int64_t d = t.rank++; d > axis; d--) t.dim[d] = t.dim[d - 1];
            t.dim[axis] = -1;
        }
        code = p->lists[s->outputs + i] == -1 ? 0 : fill(p, block, p->lists[s->outputs + i], &t, report);
        if (code) return code;
    }
    return 0;
}

/* A block whose inputs' slots are filled. */
static int check_block(sx_package *p, int64_t index, int depth, sx_report *report) {
    const sx_block_row *b = p->blocks + index;
    for (int64_t i = 0; i < b->n_segments; i++) {
        const sx_segment_row *s = p->segments + b->segments + i;
        for (int64_t j = 0; j < s->n_in; j++) {
            int64_t slot = p->lists[s->inputs + j];
            if (slot == -1 && s->kind == SX_DO_LOOP && j < 2) continue;
            if (!within(slot, b->slots) || !slots_of(p, index)[slot].dtype) return refuse(report, SX_R_SLOT, index, slot, 0);
            slots_of(p, index)[slot].last = i;
        }
        int code = s->kind == SX_DO_PROGRAM ? check_program(p, index, s, report) : s->kind == SX_DO_IF ? check_if(p, index, s, depth, report) : check_loop(p, index, s, depth, report);
        if (code) return code;
        for (int64_t j = 0; j < s->n_out; j++)
            if (p->lists[s->outputs + j] != -1) slots_of(p, index)[p->lists[s->outputs + j]].last = i; /* until somebody reads it */
    }
    for (int64_t j = 0; j < b->n_out; j++) {
        int64_t slot = p->lists[b->outputs + j];
        if (!within(slot, b->slots) || !slots_of(p, index)[slot].dtype) return refuse(report, SX_R_SLOT, index, slot, 0);
        slots_of(p, index)[slot].last = b->n_segments;
    }
    return 0;
}

static int check_variants(sx_package *p, sx_report *report) {
    int64_t total = 0;
    for (int64_t i = 0; i < p->n_blocks; i++) p->first_type[i] = total, total += p->blocks[i].slots;
    for (int64_t v = 0; v < p->n_variants; v++) {
        int64_t block = p->variants[v].block;
        int code = enter(p, block, p->n_inputs, 0, report);
        for (int64_t i = 0; !code && i < p->n_inputs; i++) code = give(p, block, i, typed(p->inputs[i].dtype, p->inputs[i].rank), report);
        if (!code) code = leave(p, block, 0, report);
        if (code) return code;
        if (p->blocks[block].n_out != p->n_outputs) return refuse(report, SX_R_BLOCK, block, SX_MAX_DEPTH, 0);
        for (int64_t i = 0; i < p->n_outputs; i++) {
            sx_slot_type t = typed(p->outputs[i].dtype, p->outputs[i].rank);
            if (!alike(output_of(p, block, i), &t)) return refuse(report, SX_R_BLOCK, block, SX_MAX_DEPTH, i);
        }
    }
    return 0;
}

/* -- open ------------------------------------------------------------------------------------------------------------------------------------------- */

static int open_programs(sx_package *p, const sx_options *options, sx_report *report) {
    for (int64_t i = 0; i < p->n_programs; i++) {
        const sx_placed_row *r = p->placed + i;
        int code = sx_open_in((char *)(uintptr_t)(p->code + r->offset), r->words * 8, 0, options, p->programs + i, report);
        if (!code && p->programs[i]->n_constants > r->n_constants) code = refuse(report, SX_R_PACKAGE, i, 0, p->programs[i]->n_constants);
        if (code) {
            if (report) report->program = (int32_t)i;
            return code;
        }
    }
    return 0;
}

#ifndef __wasm__
int sx_package_use_bfloat16(sx_package *p) {
    int used = 0;
    for (int64_t i = 0; i < p->n_programs; i++) used |= sx_use_bfloat16(p->programs[i]);
    return used;
}
#endif

static int allocate(sx_package *p, sx_report *report) {
    p->n_types = 0;
    for (int64_t i = 0; i < p->n_blocks; i++) p->n_types += p->blocks[i].slots; /* all at most the numbers in `lists` */
    p->programs = sx_cleared((p->n_programs + 1) * (int64_t)sizeof *p->programs);
    p->constants = sx_cleared((p->n_constants + 1) * (int64_t)sizeof *p->constants);
    p->lent = sx_cleared(p->n_constants + 1);
    p->types = sx_cleared((p->n_types + 1) * (int64_t)sizeof *p->types);
    p->first_type = sx_cleared((p->n_blocks + 1) * 8);
    p->state = sx_cleared(p->n_blocks + 1);
    return p->programs && p->constants && p->lent && p->types && p->first_type && p->state ? 0 : sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, p->n_types, 0);
}

int sx_package_open(const void *bytes, uint64_t count, const sx_options *options, sx_package **out, sx_report *report) {
    *out = NULL;
    const char *from = bytes;
    int64_t length = (int64_t)count;
    if (count >= 16 && count < (uint64_t)SX_LARGEST && from[0] == 'S' && from[1] == 'D' && from[2] == 'X' && from[3] == 'P' && from[4] != 'A') { /* a section, with its own header */
        int64_t major = (uint8_t)from[4] | (uint8_t)from[5] << 8;
        if (major != SX_ABI_MAJOR) return refuse(report, SX_R_ABI, -1, major, SX_ABI_MAJOR);
        from += 16, length -= 16;
    }
    if (count > (uint64_t)SX_LARGEST || length < (2 + 2 * TABLES) * 8) return refuse(report, SX_R_SHORT, -1, length, 0);
    length &= ~(int64_t)7;
    sx_package *p = sx_cleared(sizeof *p);
    if (!p) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, sizeof *p, 0);
    p->length = length, p->total = length + 64;
    p->memory_limit = options ? options->memory_limit : 0;
    if (!(p->bytes = sx_host_alloc(p->total))) {
        sx_host_free(p, sizeof *p);
        return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, length, 0);
    }
    sx_copy(p->bytes, from, length);
    const int64_t *head = (const int64_t *)p->bytes;
    int code = head[0] != MAGIC ? refuse(report, SX_R_MAGIC, -1, head[0], 0) : head[1] >> 32 != SX_ABI_MAJOR ? refuse(report, SX_R_ABI, -1, head[1] >> 32, SX_ABI_MAJOR) : read_tables(p, report);
    if (!code) code = check_rows(p, report);
    if (!code) code = allocate(p, report);
    if (!code) code = open_programs(p, options, report);
    if (!code) code = check_variants(p, report);
    if (code) sx_package_close(p);
    else *out = p;
    return code;
}

void sx_package_close(sx_package *p) {
    if (!p) return;
    for (int64_t i = 0; p->programs && i < p->n_programs; i++) sx_close(p->programs[i]);
    for (int64_t i = 0; p->lent && p->constants && i < p->n_constants; i++)
        if (p->lent[i]) sx_host_free((void *)(uintptr_t)p->constants[i].data, p->constants[i].bytes + 1);
    if (p->programs) sx_host_free(p->programs, (p->n_programs + 1) * (int64_t)sizeof *p->programs);
    if (p->constants) sx_host_free(p->constants, (p->n_constants + 1) * (int64_t)sizeof *p->constants);
    if (p->lent) sx_host_free(p->lent, p->n_constants + 1);
    if (p->types) sx_host_free(p->types, (p->n_types + 1) * (int64_t)sizeof *p->types);
    if (p->first_type) sx_host_free(p->first_type, (p->n_blocks + 1) * 8);
    if (p->state) sx_host_free(p->state, p->n_blocks + 1);
    sx_host_free(p->bytes, p->total);
    sx_host_free(p, sizeof *p);
}

/* -- files -------------------------------------------------------------------------------------------------------------------------------------------- */

int sx_file_sections(const void *header, uint64_t file_bytes, sx_file *out, sx_report *report) {
    static const unsigned char magic[8] = {0x89, 'S', 'D', 'X', 0x0d, 0x0a, 0x1a, 0x0a};
    const unsigned char *h = header;
    int good = file_bytes >= 128 && file_bytes < (uint64_t)SX_LARGEST && !((uintptr_t)h % 8);
    for (int i = 0; good && i < 8; i++) good = h[i] == magic[i];
    if (!good || ((const uint16_t *)header)[4] != 1) return refuse(report, SX_R_FILE, 0, 1, 0);
    const uint64_t *word = (const uint64_t *)header;
    *out = (sx_file){word[2], word[3], word[4], word[5], word[6], word[7], (int32_t)(((const uint32_t *)header)[3] & 1), 0};
    for (int i = 0; i < (out->external ? 2 : 3); i++) {
        uint64_t at = word[2 + 2 * i], bytes = word[3 + 2 * i];
        if (at % 64 || at < 128 || at > file_bytes || bytes > file_bytes - at) return refuse(report, SX_R_FILE, i, 1, 0);
    }
    return 0;
}

int sx_package_map(const void *file, uint64_t bytes, const sx_options *options, sx_package **out, sx_report *report) {
    sx_file found;
    *out = NULL;
    int code = sx_file_sections(file, bytes, &found, report);
    if (code) return code;
    if (!found.programs_bytes) return refuse(report, SX_R_NO_PROGRAMS, -1, 0, 0);
    code = sx_package_open((const char *)file + found.programs, found.programs_bytes, options, out, report);
    if (!code && !found.external && (code = sx_package_data(*out, (const char *)file + found.data, found.data_bytes, report))) {
        sx_package_close(*out);
        *out = NULL;
    }
    return code;
}

/* -- constants ------------------------------------------------------------------------------------------------------------------------------------------ */

/* An element that stands for all, written out. */
static int repeat(sx_package *p, int64_t number, const char *element, sx_report *report) {
    const sx_constant_row *c = p->places + number;
    char *made = sx_host_alloc(c->bytes + 1);
    if (!made) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, number, c->bytes, 0);
    for (int64_t i = 0; i < c->bytes; i += c->item) sx_copy(made + i, element, c->item);
    p->constants[number] = (sx_constant){made, c->bytes};
    p->lent[number] = 1;
    return 0;
}

int sx_package_data(sx_package *p, const void *data, uint64_t bytes, sx_report *report) {
    for (int64_t i = 0; i < p->n_constants; i++) {
        const sx_constant_row *c = p->places + i;
        int64_t stored = c->item ? c->item : c->bytes;
        if (c->offset < 0 || p->lent[i]) continue;
        if ((uint64_t)c->offset > bytes || (uint64_t)stored > bytes - (uint64_t)c->offset) return refuse(report, SX_R_EXTERNAL, i, c->offset, (int64_t)bytes);
        if (c->item) {
            int code = repeat(p, i, (const char *)data + c->offset, report);
            if (code) return code;
        } else p->constants[i] = (sx_constant){(const char *)data + c->offset, c->bytes};
    }
    p->stale = 1;
    return 0;
}

int64_t sx_package_constant(const sx_package *p, int64_t number, int64_t *offset, int64_t *bytes) {
    if (!within(number, p->n_constants)) return -1;
    *offset = p->places[number].offset, *bytes = p->places[number].bytes;
    return p->places[number].item;
}

int sx_package_set(sx_package *p, int64_t number, const void *data, uint64_t bytes, sx_report *report) {
    if (!within(number, p->n_constants) || bytes > (uint64_t)SX_LARGEST || (!data && bytes) || p->lent[number]) return sx_say(report, SX_E_ARGUMENT, SX_R_CONSTANT, -1, number, (int64_t)bytes, p->n_constants);
    p->constants[number] = (sx_constant){data, (int64_t)bytes};
    p->stale = 1;
    return 0;
}

void sx_package_lend(sx_package *p) {
    if (!p->stale) return;
    for (int64_t i = 0; i < p->n_programs; i++)
        for (int64_t j = 0; j < p->programs[i]->n_constants; j++) p->programs[i]->constants[j] = p->constants[p->lists[p->placed[i].constants + j]];
    p->stale = 0;
}

/* -- what is in it ---------------------------------------------------------------------------------------------------------------------------------------- */

int64_t sx_package_count(const sx_package *p, int what) {
    const int64_t counts[] = {p->n_inputs, p->n_outputs, p->n_constants, p->n_programs, p->n_blocks, p->n_variants, p->n_symbols};
    return what >= 0 && what < 7 ? counts[what] : -1;
}

static const char *string(const sx_package *p, int64_t number, int64_t *bytes) {
    *bytes = p->offsets[number + 1] - p->offsets[number];
    return p->text + p->offsets[number];
}

int sx_package_port(const sx_package *p, int output, int64_t number, sx_port_info *out) {
    if (!within(number, output ? p->n_outputs : p->n_inputs)) return SX_E_ARGUMENT;
    const sx_port_row *q = (output ? p->outputs : p->inputs) + number;
    *out = (sx_port_info){.dtype = (int32_t)q->dtype, .rank = (int32_t)q->rank};
    for (int64_t d = 0; d < q->rank; d++) out->dim[d] = q->dim[d];
    out->name = string(p, q->name, &out->name_bytes);
    return 0;
}

const char *sx_package_symbol(const sx_package *p, int64_t symbol, int64_t *bytes) { return within(symbol, p->n_symbols) ? string(p, p->symbols[symbol], bytes) : NULL; }

int sx_package_range(const sx_package *p, int64_t variant, int64_t symbol, int64_t *least, int64_t *most) {
    if (!within(variant, p->n_variants) || !within(symbol, p->n_symbols)) return SX_E_ARGUMENT;
    const int64_t *pair = p->lists + p->variants[variant].ranges + 2 * symbol;
    *least = pair[0], *most = pair[1];
    return 0;
}

sx_program *sx_package_program(sx_package *p, int64_t number) {
    sx_package_lend(p);
    return within(number, p->n_programs) ? p->programs[number] : NULL;
}

int64_t sx_find_variant(const sx_package *p, const int64_t *dims) {
    for (int64_t v = 0; v < p->n_variants; v++) {
        const int64_t *ranges = p->lists + p->variants[v].ranges, *dim = dims;
        int good = 1;
        for (int64_t i = 0; good && i < p->n_inputs; i++)
            for (int64_t d = 0; good && d < p->inputs[i].rank; d++, dim++) {
                int64_t said = p->inputs[i].dim[d], k = -2 - said;
                if (k >= 0) good = *dim >= ranges[2 * k] && (ranges[2 * k + 1] < 0 || *dim <= ranges[2 * k + 1]);
            }
        if (good) return v;
    }
    return -1;
}

int64_t sx_package_single(const sx_package *p, const int64_t *dims, int64_t count) {
    int64_t total = 0;
    for (int64_t i = 0; i < p->n_inputs; i++) total += p->inputs[i].rank;
    int64_t v = count == total ? sx_find_variant(p, dims) : -1;
    if (v < 0) return -1;
    const sx_block_row *b = p->blocks + p->variants[v].block;
    const sx_segment_row *s = p->segments + b->segments;
    if (b->n_segments != 1 || s->kind != SX_DO_PROGRAM || s->device != SX_ON_ENGINE || s->n_in != b->n_in || s->n_out != b->n_out) return -1;
    for (int64_t i = 0; i < s->n_in; i++) if (p->lists[s->inputs + i] != p->lists[b->inputs + i]) return -1;
    for (int64_t i = 0; i < s->n_out; i++) if (p->lists[s->outputs + i] != p->lists[b->outputs + i]) return -1;
    return s->program;
}
