// Classifies a stored image once a second, and prints its class, the time, and whether the logits are right.

#include <network_int8.h>

#include "test_vector.h"

static uint8_t pixels[sizeof test_pixels];
static int16_t logits[NETWORK_CLASSES];

void setup() {
  Serial.begin(115200);
}

void loop() {
  memcpy_P(pixels, test_pixels, sizeof pixels);  // from flash, which on AVR has addresses of its own
  const unsigned long start = micros();
  const int found = predict(pixels, logits);
  const unsigned long elapsed = micros() - start;
  const bool is_right = memcmp(logits, test_logits, sizeof logits) == 0;
  Serial.print("class ");
  Serial.print(network_classes[found]);
  Serial.print(", ");
  Serial.print(elapsed);
  Serial.println(is_right ? " us, logits equal the reference" : " us, logits DIFFER from the reference");
  delay(1000);
}
