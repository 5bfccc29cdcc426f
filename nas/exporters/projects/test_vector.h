{{ about }}

#ifndef TEST_VECTOR_H
#define TEST_VECTOR_H

#include <stdint.h>

#ifndef PROGMEM /* Arduino's word for constants in flash */
#define PROGMEM
#endif

{{ pixels }}
{{ logits }}
#endif
