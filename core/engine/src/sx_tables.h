/* sx_tables.h: the ISAs of this build, best first. build.py says which by -DSX_ISAS_X="X(avx512) X(avx2) X(sse)". */
#ifndef SX_TABLES_H
#define SX_TABLES_H
#include "sx_internal.h"

#define X(name) extern const sx_table sx_table_##name;
SX_ISAS_X
#undef X

static const sx_table *const sx_tables[] = {
#define X(name) &sx_table_##name,
    SX_ISAS_X
#undef X
};
#define SX_ISAS ((int)(sizeof sx_tables / sizeof sx_tables[0]))
#endif
