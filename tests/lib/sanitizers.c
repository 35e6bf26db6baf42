/*
 * What the sanitizers do in a helper program: they are started with an empty environment.
 *
 * LeakSanitizer stops the program by ptrace, which a program that has changed its user namespace
 * or cannot be traced does not allow. A fault ends the program by SIGABRT, which no exit code of
 * its own looks like.
 */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void)
{
	return "detect_leaks=0:abort_on_error=1";
}

const char *__ubsan_default_options(void)
{
	return "print_stacktrace=1:abort_on_error=1";
}
