/* sx_package.h: packages in memory. package.c opens and verifies them, session.c runs them. */
#ifndef SX_PACKAGE_H
#define SX_PACKAGE_H
#include "sx_internal.h"

#define SX_MAX_DEPTH 16
enum { SX_DO_PROGRAM, SX_DO_IF, SX_DO_LOOP, SX_DOS };
enum { SX_ON_ENGINE, SX_ON_WEBGPU };

/* Rows of the tables, as core/package.py says. */
typedef struct { int64_t offset, words, constants, n_constants; } sx_placed_row;
typedef struct { int64_t slots, inputs, n_in, outputs, n_out, segments, n_segments; } sx_block_row;
typedef struct { int64_t kind, device, program, inputs, n_in, outputs, n_out, blocks, n_blocks, params, n_params, origin; } sx_segment_row;
typedef struct { int64_t block, ranges; } sx_variant_row;
typedef struct { int64_t offset, bytes, item; } sx_constant_row;
typedef struct { int64_t name, dtype, rank, dim[SX_RANK]; } sx_port_row;

/* What is known of a slot before a run; dim -1: not known. dtype 0: nothing fills it. `last`: the segment that reads it last; n_segments: the block gives it away. */
typedef struct { int64_t dtype, rank, dim[SX_RANK], last; } sx_slot_type;

/* The parameters of a LOOP segment. `pairs`: (axis, direction) of scanned inputs, then of stacks. */
typedef struct { int64_t counts, carried, scanned, stacked; const int64_t *pairs; } sx_loop;

struct sx_package {
    char *bytes;
    int64_t length, total;
    int64_t n_programs, n_blocks, n_segments, n_lists, n_variants, n_constants, n_inputs, n_outputs, n_symbols, n_kinds, n_packings, n_offsets, n_text, n_code;
    const sx_placed_row *placed;
    const sx_block_row *blocks;
    const sx_segment_row *segments;
    const int64_t *lists;
    const sx_variant_row *variants;
    const sx_constant_row *places;
    const sx_port_row *inputs, *outputs;
    const int64_t *symbols, *kinds, *packings, *offsets;
    const char *text;
    const int64_t *code;
    sx_program **programs;
    sx_constant *constants;
    char *lent;            /* whether a constant's bytes are the package's own (splats, repeated) */
    sx_slot_type *types;   /* of all blocks, one after the other */
    int64_t *first_type;   /* where each block's begin */
    char *state;           /* of each block: 0 not reached, 1 being verified, 2 + how deep blocks are nested in it */
    int64_t n_types;
    int64_t memory_limit;
    int stale;             /* constants were set and programs do not know them yet */
};

static inline sx_loop sx_loop_of(const sx_package *p, const sx_segment_row *s) {
    const int64_t *w = p->lists + s->params;
    return (sx_loop){w[0], w[1], w[2], w[3], w + 4};
}

void sx_package_lend(sx_package *p); /* tell the programs where their constants are */
int64_t sx_find_variant(const sx_package *p, const int64_t *dims); /* of all inputs, one after the other; -1: none */
#endif
