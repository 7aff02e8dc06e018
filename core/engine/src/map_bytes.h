/* map_bytes.h: what map.c needs of map_bytes.c. */
#ifndef SX_MAP_BYTES_H
#define SX_MAP_BYTES_H
#include "sx_expr.h"

#define SX_BYTES_STEPS 3
enum { SX_BYTES_NONE, SX_BYTES_TABLE, SX_BYTES_QUANTISE, SX_BYTES_SUM };

/* A Map recognised; `leaf`: operand numbers. */
typedef struct {
    int form, leaf[2], steps, divides[SX_BYTES_STEPS];
    float by[SX_BYTES_STEPS], constant, zero, low, high;
    uint8_t bytes[256];
    float floats[256];
} sx_bytes_form;

/* Look at a Map; 0 where it is of no form. Reads operands: not while binding. */
int SX_NAME(sx_bytes_form_of)(const sx_call *call, sx_bytes_form *form);
/* Do one tile; 0 where operands lie so that the interpreter must. */
int SX_NAME(sx_bytes_tile)(const sx_bytes_form *form, const sx_tile *tile);
#endif
