#include <stdio.h>

#include "greeting.h"

int main(int argc, char **argv)
{
    printf("%s, %s\n", greeting(), argc > 1 ? argv[1] : "nobody");
    return 0;
}
