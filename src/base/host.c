#include "base/base.h"

struct sm_host sm_host;
