/* Prints the operator table as JSON, for the client's encoder (client/thunder/optable.py). */
#include <stdio.h>
#include <string.h>

#include "ir/op.h"

static void words(const char *text) {
  printf("[");
  for (bool first = true; *text; first = false) {
    size_t n = strcspn(text, " ");
    printf("%s\"%.*s\"", first ? "" : ", ", (int)n, text);
    text += n + (text[n] == ' ');
  }
  printf("]");
}

int main(void) {
  printf("[\n");
  for (int k = 0; k < TH_OP_COUNT; k++) {
    const th_op_spec *s = th_op_spec_get((th_op_kind)k);
    printf("{\"name\": \"%s\", \"level\": %d, \"results\": %d, \"overloads\": ", s->name, (int)s->level, s->n_results);
    words(s->overloads);
    printf(", \"operands\": [");
    for (uint32_t i = 0; i < s->n_operands; i++)
      printf("%s{\"name\": \"%s\", \"optional\": %s, \"variadic\": %s}", i ? ", " : "", s->operands[i].name, s->operands[i].optional ? "true" : "false", s->operands[i].variadic ? "true" : "false");
    printf("], \"attrs\": [");
    for (uint32_t i = 0; i < s->n_attrs; i++)
      printf("%s{\"name\": \"%s\", \"kind\": \"%s\", \"optional\": %s, \"default\": %s%s%s}", i ? ", " : "", s->attrs[i].name, th_attr_kind_name(s->attrs[i].kind), s->attrs[i].optional ? "true" : "false",
             s->attrs[i].has_default ? "\"" : "", s->attrs[i].has_default ? s->attrs[i].fallback : "null", s->attrs[i].has_default ? "\"" : "");
    printf("]}%s\n", k + 1 < TH_OP_COUNT ? "," : "");
  }
  printf("]\n");
  return 0;
}
