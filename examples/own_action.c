/* phi^4 in the hopping form, for dmmc.action(..., backend="ctypes"); see own_action_c.py.

   S = sum_x [-2 kappa sum_mu phi phi_mu + (1 - 2 lam) phi^2 + lam phi^4], periodic, any number of dimensions.

   Compile it with -ffp-contract=off: its gradient is then that of dmmc.Phi4, bit for bit. */

#include <stdint.h>

/* The sum of phi over the two neighbours of site x along every axis. */
static double neighbours(const double *phi, int64_t x, int64_t dim, const int64_t *shape, int64_t volume) {
    double total = 0;
    int64_t stride = volume;
    for (int64_t axis = 0; axis < dim; axis++) {
        int64_t period = stride;
        stride /= shape[axis];
        int64_t at = x % period;
        int64_t up = at + stride < period ? x + stride : x + stride - period;
        int64_t down = at >= stride ? x - stride : x - stride + period;
        double both = phi[up] + phi[down];
        total = axis ? total + both : both;
    }
    return total;
}

static int64_t sites(int64_t dim, const int64_t *shape) {
    int64_t volume = 1;
    for (int64_t axis = 0; axis < dim; axis++) volume *= shape[axis];
    return volume;
}

int phi4_action(const double *phi, int64_t n, int64_t dim, const int64_t *shape, const double *parameters, double *S) {
    double kappa = parameters[0], lam = parameters[1];
    int64_t volume = sites(dim, shape);
    for (int64_t k = 0; k < n; k++, phi += volume) {
        double sum = 0;
        for (int64_t x = 0; x < volume; x++) {
            double square = phi[x] * phi[x];
            sum += square * ((1 - 2 * lam) + lam * square) - kappa * phi[x] * neighbours(phi, x, dim, shape, volume);
        }
        S[k] = sum;
    }
    return 0;
}

int phi4_grad(const double *phi, int64_t n, int64_t dim, const int64_t *shape, const double *parameters, double *out) {
    double kappa = parameters[0], lam = parameters[1];
    int64_t volume = sites(dim, shape);
    for (int64_t k = 0; k < n; k++, phi += volume, out += volume)
        for (int64_t x = 0; x < volume; x++)
            out[x] = phi[x] * (2 * (1 - 2 * lam) + 4 * lam * phi[x] * phi[x])
                     - 2 * kappa * neighbours(phi, x, dim, shape, volume);
    return 0;
}
