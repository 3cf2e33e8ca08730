// Linear algebra in float64 for statistics: symmetric eigenvalues, singular values, products, from OpenBLAS
// and the LAPACK inside it. Matrices are row-major and dense.
#include "native.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>

extern "C" {

void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info);
void dgesdd_(const char *jobz, const int *m, const int *n, double *a, const int *lda, double *s, double *u,
             const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork, int *iwork,
             int *info);

// The one function of gfortran's library that LAPACK asks for: a text of a and b, filled up with blanks. It
// makes names of settings such as "UN" of two letters.
__attribute__((visibility("hidden"))) void _gfortran_concat_string(size_t n, char *to, size_t na,
                                                                   const char *a, size_t nb, const char *b) {
  for (size_t i = 0; i < n; ++i) to[i] = i < na ? a[i] : i - na < nb ? b[i - na] : ' ';
}

}

namespace {

int failed(const char *name, int info) {
  if (info < 0) set_error("%s refused its argument %d", name, -info);
  if (info > 0)
    set_error("%s did not converge (%d); the matrix may hold values that are not finite", name, info);
  return info ? MD_NOT_CONVERGED : MD_OK;
}

int no_memory(const char *name) {
  set_error("no memory for %s", name);
  return MD_NO_MEMORY;
}

}  // namespace

int md_symmetric_eigen(int vectors, long n, double *a, double *values) {
  const char *job = vectors ? "V" : "N";
  const int size = int(n), ask = -1;
  double best = 0;
  int best_whole = 0, info = 0;
  dsyevd_(job, "L", &size, a, &size, values, &best, &ask, &best_whole, &ask, &info);
  if (info) return failed("dsyevd", info);
  const int reals = int(best), wholes = best_whole;
  double *work = static_cast<double *>(malloc(sizeof(double) * size_t(reals)));
  int *whole = static_cast<int *>(malloc(sizeof(int) * size_t(wholes)));
  if (work && whole) dsyevd_(job, "L", &size, a, &size, values, work, &reals, whole, &wholes, &info);
  const bool ran = work && whole;
  free(work);
  free(whole);
  return ran ? failed("dsyevd", info) : no_memory("dsyevd");
}

int md_singular_values(long rows, long columns, double *a, double *values) {
  // LAPACK sees the transpose, whose singular values are the same.
  const int m = int(columns), n = int(rows), one = 1, ask = -1;
  double best = 0, none = 0;
  int info = 0;
  int *whole = static_cast<int *>(malloc(sizeof(int) * 8 * size_t(m < n ? m : n)));
  if (!whole) return no_memory("dgesdd");
  dgesdd_("N", &m, &n, a, &m, values, &none, &one, &none, &one, &best, &ask, whole, &info);
  const int reals = int(best);
  double *work = info ? nullptr : static_cast<double *>(malloc(sizeof(double) * size_t(reals)));
  const bool ran = info || work;
  if (work) dgesdd_("N", &m, &n, a, &m, values, &none, &one, &none, &one, work, &reals, whole, &info);
  free(work);
  free(whole);
  return ran ? failed("dgesdd", info) : no_memory("dgesdd");
}

void md_product_f64(int trans_a, int trans_b, long m, long n, long k, const double *a, const double *b,
                    double *c) {
  cblas_dgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans, int(m),
              int(n), int(k), 1.0, a, int(trans_a ? m : k), b, int(trans_b ? k : n), 0.0, c, int(n));
}

void md_add_scatter_f64(long rows, long columns, const double *x, double *c) {
  cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, int(columns), int(rows), 1.0, x, int(columns), 1.0, c,
              int(columns));
}
