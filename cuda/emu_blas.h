/* emu_blas.h: the few functions of cuBLAS that we call, on a CPU. Matrices stand column after
 * column, as there. Sums are made in one order whatever the shapes beside, in float32.
 * Used by emu.h. Test: tests/test_cuda.c, tests/test_traincuda.c. */
#ifndef OC_EMU_BLAS_H
#define OC_EMU_BLAS_H

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum { CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT };
enum cublasMath_t { CUBLAS_DEFAULT_MATH, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16 };
typedef cudaStream_t *cublasHandle_t;
inline const char *cublasGetStatusString(cublasStatus_t) { return "an error"; }
inline cublasStatus_t cublasCreate(cublasHandle_t *h) {
    return *h = new cudaStream_t(nullptr), CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasDestroy(cublasHandle_t h) { return delete h, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetStream(cublasHandle_t h, cudaStream_t stream) {
    return *h = stream, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasSetMathMode(cublasHandle_t, int) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t) {
    return CUBLAS_STATUS_SUCCESS;
}

namespace emu {
inline float number(const void *p, cudaDataType_t t, size_t i) {
    return t == CUDA_R_32F   ? ((const float *)p)[i]
           : t == CUDA_R_16F ? half_bits_to_float(((const uint16_t *)p)[i])
                             : bf16_bits_to_float(((const uint16_t *)p)[i]);
}
inline void narrow(void *p, cudaDataType_t t, size_t i, float v) {
    if (t == CUDA_R_32F) ((float *)p)[i] = v;
    if (t == CUDA_R_16F) ((uint16_t *)p)[i] = float_to_half_bits(v);
    if (t == CUDA_R_16BF) ((uint16_t *)p)[i] = float_to_bf16_bits(v);
}
/* n vectors of k numbers, as float32: number i of vector j stands at j * apart + i * step. */
inline std::vector<float> widen(const void *p, cudaDataType_t t, size_t n, size_t k, size_t apart,
                                size_t step) {
    std::vector<float> v(n * k);
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < k; i++) v[j * k + i] = number(p, t, j * apart + i * step);
    return v;
}
inline float dot(const float *a, const float *b, size_t k) {
    float lane[8] = { 0 }, sum = 0;
    size_t i = 0;
    for (; i + 8 <= k; i += 8)
        for (size_t l = 0; l < 8; l++) lane[l] += a[i + l] * b[i + l];
    for (; i < k; i++) lane[i % 8] += a[i] * b[i];
    for (float l : lane) sum += l;
    return sum;
}
} // namespace emu

/* C (m, n) = alpha op(A) op(B) + beta C, where op(A) is (m, k) and op(B) (k, n). */
inline cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb,
                                   int m, int n, int k, const void *alpha, const void *a,
                                   cudaDataType_t at, int lda, const void *b, cudaDataType_t bt,
                                   int ldb, const void *beta, void *c, cudaDataType_t ct, int ldc,
                                   int, int) {
    float al = *(const float *)alpha, be = *(const float *)beta;
    bool a_rows = ta == CUBLAS_OP_T, b_rows = tb == CUBLAS_OP_N; /* k numbers side by side */
    if (lda < (a_rows ? k : m) || ldb < (b_rows ? k : n) || ldc < m || at != bt)
        emu::fault("operands do not fit", "cublasGemmEx");
    emu::submit(*h, [=] {
        size_t M = (size_t)m, N = (size_t)n, K = (size_t)k, la = (size_t)lda, lb = (size_t)ldb;
        auto x = emu::widen(a, at, M, K, a_rows ? la : 1, a_rows ? 1 : la);
        auto y = emu::widen(b, bt, N, K, b_rows ? lb : 1, b_rows ? 1 : lb);
        for (size_t j = 0; j < N; j++)
            for (size_t i = 0; i < M; i++) {
                size_t to = j * (size_t)ldc + i;
                float old = be != 0 ? be * emu::number(c, ct, to) : 0;
                emu::narrow(c, ct, to, al * emu::dot(&x[i * K], &y[j * K], K) + old);
            }
    });
    return CUBLAS_STATUS_SUCCESS;
}

#endif
