// Names that the headers of glibc 2.38 and later put into OpenBLAS's objects, by the functions that every
// glibc has: so a library that was built on a new system loads on an old one, too.

extern "C" {

long strtol_of_old(const char *text, char **end, int base) __asm__("strtol");

__attribute__((visibility("hidden"))) long __isoc23_strtol(const char *text, char **end, int base) {
  return strtol_of_old(text, end, base);
}

}
