/* text.c: reports in words. */
#include "sx_package.h"

typedef struct { char *text; int64_t size, length; } sink;

static void put(sink *s, const char *t, int64_t n) {
    for (int64_t i = 0; n < 0 ? t[i] != 0 : i < n; i++, s->length++) if (s->length < s->size - 1) s->text[s->length] = t[i];
}

static void put_number(sink *s, int64_t value) {
    char digits[24];
    int n = 24;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do digits[--n] = (char)('0' + rest % 10); while (rest /= 10);
    if (value < 0) digits[--n] = '-';
    put(s, digits + n, 24 - n);
}

/* %o: operand or row; %a, %b: the values; %s: the step (and, for an input's axis, the axis). */
static const char *const WORDS[SX_RULES] = {
    [SX_R_NONE] = "failed (operand %o, values %a and %b)",
    [SX_R_SHORT] = "program: %a bytes are too few for its header",
    [SX_R_MAGIC] = "program: wrong magic number",
    [SX_R_ABI] = "program: ABI %a is not %b, which this engine runs; re-plan: sardonyx convert --plan",
    [SX_R_TABLE] = "program: table %o lies outside the program",
    [SX_R_SIZE] = "program: size %o is not computed from earlier sizes (%a, %b)",
    [SX_R_GUARD_ROW] = "program: guard %o refers to sizes that are not there (%a, %b)",
    [SX_R_BUFFER] = "program: buffer %o lies outside its home (home %a, at %b)",
    [SX_R_VIEW] = "program: view %o is not valid (buffer %a, rank %b)",
    [SX_R_CODE] = "program: expression %o is not valid",
    [SX_R_STEP] = "program: operand %o refers to row %a, which is not there or not allowed here",
    [SX_R_KIND] = "program: kernel kind %a version %b is not known to this engine; re-plan: sardonyx convert --plan",
    [SX_R_OPERANDS] = "program: %a inputs and %b outputs (or the number of parameters) do not fit the kind",
    [SX_R_TYPE] = "element types do not fit (operand %o: %a, %b)",
    [SX_R_PORT] = "program: input or output %o is not valid",
    [SX_R_STRING] = "program: string offsets are not in order (row %o)",
    [SX_R_MEMORY] = "%a bytes of memory are not to be had (limit %b); use smaller sizes, fewer threads or raise session.memory_limit",
    [SX_R_ARENA] = "program: an arena of %a bytes is not possible (size %o)",
    [SX_R_CONSTANT] = "constant %o is not valid: %a bytes; the program has %b constants",
    [SX_R_COUNT] = "%a sizes were given for inputs that have %b",
    [SX_R_INPUT_SIZE] = "input %o has size %a on axis %s, the program was planned for %b",
    [SX_R_GUARD] = "the program does not cover these sizes: guard %o does not hold for %a and %b; plan for them (sardonyx convert --plan)",
    [SX_R_UNEQUAL] = "sizes that must be equal are %a and %b (guard %o): inputs differ in a size that has one name, or a Reshape or Squeeze does not keep the number of elements",
    [SX_R_OVERFLOW] = "sizes overflow, are negative or divided by zero (row or operand %o: %a, %b)",
    [SX_R_EXTENT] = "operand %o reaches element %a of a buffer of %b",
    [SX_R_DIMS] = "dims do not fit (operand %o: %a, %b)",
    [SX_R_PARAM] = "parameter %o is not valid: %a",
    [SX_R_POINTER] = "pointer %o is missing or not aligned to %a bytes",
    [SX_R_KERNEL] = "kernel kind %a with these types or parameters is not in this engine (operand %o)",
    [SX_R_INDEX] = "index %a is out of range: the size is %b (operand %o)",
    [SX_R_DIVISION] = "integer division by zero",
    [SX_R_STOPPED] = "the run was stopped",
    [SX_R_ISA] = "this machine does not run the instruction set asked for (%a)",
    [SX_R_ELEMENT] = "input %o has %b elements; element %a decides sizes",
    [SX_R_PLACE] = "program: buffer %o at %a lies outside the arena of %b bytes, or is not aligned to 64 bytes",
    [SX_R_UNREADABLE] = "elements of input %o decide sizes: bind needs the inputs",
    [SX_R_PACKAGE] = "package: row %o of table %a is not valid (%b)",
    [SX_R_BLOCK] = "package: block %o is not there, nested deeper than %a or within itself, or used with other inputs",
    [SX_R_SLOT] = "package: slot %a of block %o is not there, filled twice or read before it is filled",
    [SX_R_SEGMENT] = "package: segment %a of block %o is not valid (%b)",
    [SX_R_NO_PROGRAMS] = "the file holds no programs for this engine; make it again: sardonyx convert model.onnx",
    [SX_R_VARIANT] = "no plan covers these sizes (input %o has rank %a and element type %b); plan for them: sardonyx convert --plan",
    [SX_R_TENSOR] = "input %o has rank %a and element type %b, which are not the model's",
    [SX_R_ROUNDS] = "scanned inputs differ in length (input %o: %a, another: %b)",
    [SX_R_SCALAR] = "a condition or trip count must have one element, this has %a (input %o)",
    [SX_R_STACK] = "what the rounds of a loop give for output %o differs in size (%a, %b)",
    [SX_R_HOST] = "output %o of a segment the host runs is missing, or of another type (rank %a, element type %b)",
    [SX_R_FILE] = "not a .sdx file of format %a, or damaged (section %o); make it again: sardonyx convert model.onnx",
    [SX_R_EXTERNAL] = "constant %o lies outside the tensor data of %b bytes (at %a)",
    [SX_R_STRIDE] = "output or operand %o has strides this kernel does not take",
};

static void put_place(sink *s, const char *name, int64_t bytes) {
    if (bytes <= 0) return;
    put(s, "'", 1);
    put(s, name, bytes);
    put(s, "' ", 2);
}

static void put_rule(sink *s, const sx_report *r) {
    const char *t = r->rule >= 0 && r->rule < SX_RULES && WORDS[r->rule] ? WORDS[r->rule] : WORDS[SX_R_NONE];
    for (; *t; t++) {
        if (*t != '%') put(s, t, 1);
        else if (*++t == 's') put_number(s, r->step);
        else put_number(s, *t == 'o' ? r->operand : r->values[*t == 'b']);
    }
}

static int64_t end(sink *s) {
    if (s->size > 0) s->text[s->length < s->size - 1 ? s->length : s->size - 1] = 0;
    return s->length;
}

static void put_program(sink *s, const sx_report *r, const sx_program *p) {
    if (p && r->step >= 0 && r->step < p->n_steps && r->rule != SX_R_INPUT_SIZE) {
        int64_t name = p->steps[r->step].origin;
        if (name >= 0 && name + 1 < p->n_offsets) put_place(s, p->text + p->offsets[name], p->offsets[name + 1] - p->offsets[name]);
        put(s, "(step ", -1);
        put_number(s, r->step);
        put(s, "): ", -1);
    }
}

int64_t sx_error_text(const sx_report *r, const sx_program *p, char *text, int64_t size) {
    sink s = {text, size, 0};
    put_program(&s, r, p);
    put_rule(&s, r);
    return end(&s);
}

int64_t sx_package_error_text(const sx_report *r, const sx_package *p, char *text, int64_t size) {
    sink s = {text, size, 0};
    int known = p && r->block >= 0 && r->block < p->n_blocks && r->segment >= 0 && r->segment < p->blocks[r->block].n_segments;
    if (p && r->program >= 0 && r->program < p->n_programs && r->step >= 0) put_program(&s, r, p->programs[r->program]);
    else if (known) {
        int64_t name = p->segments[p->blocks[r->block].segments + r->segment].origin;
        put_place(&s, p->text + p->offsets[name], p->offsets[name + 1] - p->offsets[name]);
        put(&s, "(block ", -1);
        put_number(&s, r->block);
        put(&s, ", segment ", -1);
        put_number(&s, r->segment);
        put(&s, "): ", -1);
    }
    put_rule(&s, r);
    return end(&s);
}
