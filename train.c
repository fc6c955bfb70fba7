/* train.c: until the trainer is merged, the driver with a stand-in. */
#include "train_stub.c"
#include "train_driver.c"
