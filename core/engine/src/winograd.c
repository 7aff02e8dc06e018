#include "conv.h"
int SX_NAME(sx_winograd)(const sx_conv *v) { return sx_fail(v->call, SX_E_UNSUPPORTED, 1, 0, 0); }
int64_t SX_NAME(sx_winograd_scratch)(const sx_conv *v) { (void)v; return 0; }
