"""The numbers at which a diagnostic becomes a verdict, each with its reason."""

from dmmc.diagnostics.autocorrelation import ENOUGH

# Standard errors. With a dozen comparisons in a report, 4 comes up by chance in fewer than 1 of 1000; errors from short
# chains are themselves uncertain by up to a third, which turns an honest 4 into 6 at most.
Z_DOUBTFUL, Z_BAD = 4.0, 6.0
# exp(-sigma^2) of Gaussian log weights with sigma = 1.25 and 2: acceptance 0.38 and 0.16. Beyond 2 the weights that
# matter are too rare for an ordinary run to have seen them.
ESS_DOUBTFUL, ESS_BAD = 0.2, 0.02
# Vehtari et al., 1507.02646: no useful convergence above 0.7 (less for few weights), none at all above 1. The variance
# exists below 0.5.
PARETO_VARIANCE, PARETO_DOUBTFUL, PARETO_BAD = 0.5, 0.7, 1.0
# A missed mode of one per cent shifts results by as much as the statistical error of 10^4 independent draws.
UNREACHED_BAD = 0.01
# exp(-sigma^2) = 1e-11: where log w scatters by 5 over the target, no run has enough proposals.
STD_REFERENCE_BAD = 5.0
# Kullback-Leibler divergences are not negative. What is smaller than this may be rounding, and does not matter.
NEGLIGIBLE_KL = 1e-3
# Probability of a run of rejections. Its law is known exactly but for the discreteness of the empirical weights.
RUN_P_VALUE = 1e-5
# Other kernels reject in clusters whose law is unknown, so only a gross excess over independent rejections counts.
RUN_EXCESS = 5.0
# Bias over statistical error: at 0.3 the total error is 5 % larger than the quoted one, at 1 the bias dominates.
BIAS_DOUBTFUL, BIAS_BAD = 0.3, 1.0
# Draws per tau_int: the relative uncertainty of an error is about sqrt(5 tau_int / draws), a third and a sixth.
DRAWS_BAD, DRAWS_DOUBTFUL = float(ENOUGH), 4.0 * ENOUGH
# R^2 = 1 + 4 tau_int / draws for stationary chains, since R-hat compares half chains: 1.1 and 1.3 are chains of about
# 20 and of 6 tau_int. The scatter of many chains is in the errors, however short they are. Then only chains that hardly
# moved are hopeless (2 means 1.3 tau_int), or one that is far from all others: the farthest of 10^4 Gaussian means is
# 4 standard deviations out, and means of M^2 over a few tau_int, which are skewed, are twice as far.
RHAT_DOUBTFUL, RHAT_BAD, RHAT_BAD_MANY, OUTLIER = 1.1, 1.3, 2.0, 10.0
# So many independent draws have one sign by chance in fewer than 1 of 10^5 cases.
ONE_SIDED_DRAWS = 20
# Proposals of weight zero are rejected, which is exact, but they are a sign of overflow.
ZERO_WEIGHTS = 0.01
