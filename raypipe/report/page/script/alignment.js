// Soft-DTW of a video's path with another path, in float64 and cell by cell, as raypipe/softdtw/alignment.py has it.

function squaredDistances(x, z, dim) {
  const nx = x.length / dim, nz = z.length / dim, apart = new Float64Array(nz * nx);
  for (let i = 0; i < nz; i++) for (let j = 0; j < nx; j++) {
    let sum = 0;
    for (let c = 0; c < dim; c++) sum += (z[i * dim + c] - x[j * dim + c]) ** 2;
    apart[i * nx + j] = sum;
  }
  return {apart, nx, nz};
}

function softMinimum(a, b, c, gamma) {
  const least = Math.min(a, b, c);
  const part = value => Math.exp((least - value) / gamma);
  return least - gamma * Math.log(part(a) + part(b) + part(c));
}

// Costs of all prefixes; with `back`, of all suffixes.
function accumulate(apart, nz, nx, gamma, back) {
  const costs = new Float64Array(nz * nx), step = back ? -1 : 1;
  const inside = (i, j) => i >= 0 && j >= 0 && i < nz && j < nx ? costs[i * nx + j] : Infinity;
  for (let a = 0; a < nz; a++) for (let b = 0; b < nx; b++) {
    const i = back ? nz - 1 - a : a, j = back ? nx - 1 - b : b;
    costs[i * nx + j] = apart[i * nx + j];
    if (!a && !b) continue;
    costs[i * nx + j] += softMinimum(inside(i - step, j), inside(i, j - step), inside(i - step, j - step), gamma);
  }
  return costs;
}

function softDtw(x, z, dim, gamma) {
  const {apart, nx, nz} = squaredDistances(x, z, dim);
  return accumulate(apart, nz, nx, gamma, false)[nz * nx - 1];
}

// The probability that each step of z (rows) and each of x (columns) are aligned (Cuturi & Blondel 2017, section 2.2).
function expectedAlignment(x, z, dim, gamma) {
  const {apart, nx, nz} = squaredDistances(x, z, dim);
  const forward = accumulate(apart, nz, nx, gamma, false), backward = accumulate(apart, nz, nx, gamma, true);
  const total = forward[nz * nx - 1];
  const expected = apart.map((d, k) => Math.exp(Math.min((total - (forward[k] + backward[k] - d)) / gamma, 0)));
  return {expected, nx, nz};
}

const pathIn = (points, starts, dim, row) => points.subarray(dim * starts[row], dim * starts[row + 1]);
const pathOf = row => pathIn(data.points, data.starts, 2, row);
const reducedOf = row => pathIn(data.reduced, data.reducedStarts, data.dim, row);

// Whether this video's path was clustered by soft-DTW and is in the page.
function canAlign(row) {
  const center = data.centers?.[data.cluster[row]];
  return Boolean(data.reduced && data.gamma && center && reducedOf(row).length);
}

function alignWithCenter(row) {
  return expectedAlignment(reducedOf(row), data.centers[data.cluster[row]], data.dim, data.gamma);
}

const SHORTLIST = 120;  // So many are compared by soft-DTW, however many are wanted: the first of six is the nearest one.

// The nearest videos: the likeliest by the distance of steps at equal parts of the paths, then by soft-DTW.
function nearestVideos(row, count) {
  const useReduced = data.reduced && data.gamma;
  const take = useReduced ? reducedOf : pathOf, dim = useReduced ? data.dim : 2, gamma = data.gamma || 1e-9;
  const mine = take(row), found = [];
  if (!mine.length) return [];
  for (let i = 0; i < data.n; i++) if (i !== row && take(i).length) found.push([roughDistance(mine, take(i), dim), i]);
  found.sort((a, b) => a[0] - b[0]);
  if (!useReduced) return found.slice(0, count).map(([, i]) => i);
  const close = found.slice(0, SHORTLIST).map(([, i]) => {
    return [softDtw(mine, take(i), dim, gamma) - softDtw(take(i), take(i), dim, gamma) / 2, i];
  });
  return close.sort((a, b) => a[0] - b[0]).slice(0, count).map(([, i]) => i);
}

function roughDistance(x, z, dim) {
  const nx = x.length / dim, nz = z.length / dim, steps = Math.min(nx, 16);
  let sum = 0;
  for (let s = 0; s < steps; s++) {
    const part = steps > 1 ? s / (steps - 1) : 0;
    const i = Math.round(part * (nx - 1)) * dim, j = Math.round(part * (nz - 1)) * dim;
    for (let c = 0; c < dim; c++) sum += (x[i + c] - z[j + c]) ** 2;
  }
  return sum;
}
