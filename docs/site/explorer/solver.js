/* Solve for the worst class weights in a set around the uniform distribution, as `faal_lab.dro` does in Python.

     maximise sum(w_c * s_c)   over the weights w >= 0 with sum 1 and D(w, U) <= radius,   U = 1/C

   Pure functions in `globalThis.faalSolver`; a classic script, because a page opened from disk may load no module. Every set
   sees the gaps d = (largest score - s_c) / range: 0 for the hardest class, 1 for the easiest. A set with one scalar root finds
   it by bisection, to the last digit. `tests/test_explorer_page.py` compares weights and values with the Python solver. */
(() => {
  "use strict";

  const FLAT = 1e-12; // a range of scores below this, relative to their size, is rounding noise: the scores count as equal
  const TIED = 1e-12; // prices of journeys closer than this are one price

  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const mean = (values) => sum(values) / values.length;
  const normalised = (values) => {
    const total = sum(values);
    return values.map((value) => value / total);
  };
  const hardest = (gaps) => normalised(gaps.map((d) => (d === 0 ? 1 : 0))); // equal shares for equal scores

  /** Find the s in [low, high] where the falling curve changes its sign. */
  function fallingRoot(curve, low, high) {
    for (;;) {
      const middle = (low + high) / 2;
      if (!(low < middle && middle < high)) return middle;
      if (curve(middle) > 0) low = middle;
      else high = middle;
    }
  }

  /* KL(U||w) <= tau: w_c = eps / (eps + d_c), normalised. */

  const nearness = (s, gaps) => normalised(gaps.map((d) => Math.exp(s) / (Math.exp(s) + d)));

  /** Compute KL(U||w) at eps = exp(s), around the mean gap: the first order cancels before it is rounded. */
  function klSpent(s, gaps) {
    const eps = Math.exp(s), middle = mean(gaps), centre = eps + middle;
    let inverse = 0, logs = 0;
    for (const d of gaps) {
      const z = (d - middle) / centre, ratio = (eps + d) / centre;
      inverse += (z * z) / ratio;
      logs += (z > -0.5 ? Math.log1p(z) : Math.log(ratio)) - z;
    }
    return Math.log1p(inverse / gaps.length) + logs / gaps.length;
  }

  function kl(gaps, tau) {
    const s = fallingRoot((at) => klSpent(at, gaps) - tau, -700, 400);
    return { weights: nearness(s, gaps), divergence: klSpent(s, gaps) };
  }

  /* KL(w||U) <= tau: a softmax, w_c = exp(-t * d_c), normalised. */

  function tilted(t, gaps) {
    const x = gaps.map((d) => -t * d), raw = x.map(Math.exp), weights = normalised(raw);
    if (t >= 0.5) return { weights, divergence: sum(weights.map((w, c) => w * x[c])) - Math.log(mean(raw)) };
    const middle = mean(x), y = x.map((value) => value - middle), grown = y.map(Math.expm1), lift = mean(grown);
    return { weights, divergence: mean(y.map((value, c) => value * grown[c])) / (1 + lift) - Math.log1p(lift) };
  }

  function reverseKl(gaps, tau) {
    const tops = gaps.filter((d) => d === 0).length, most = Math.log(gaps.length / tops);
    if (tau >= most) return { weights: hardest(gaps), divergence: most };
    const second = Math.min(...gaps.filter((d) => d > 0));
    const s = fallingRoot((at) => tau - tilted(Math.exp(at), gaps).divergence, -400, Math.log(750 / second));
    return tilted(Math.exp(s), gaps);
  }

  /* sum((w - u)^2 / u) <= rho: w_c = (theta - d_c)+, normalised. */

  function chiSquare(gaps, rho) {
    const classes = gaps.length, tops = gaps.filter((d) => d === 0).length;
    const spent = (weights) => sum(weights.map((w) => (classes * w - 1) ** 2)) / classes;
    if (rho >= classes / tops - 1) return { weights: hardest(gaps), divergence: spent(hardest(gaps)) };
    const kept = gaps.filter((edge) => {
      if (edge === 0) return true; // the hardest class always keeps weight
      const heights = gaps.map((d) => Math.max(0, edge - d)); // a class does if a threshold at its own gap exceeds the radius
      return (classes * sum(heights.map((h) => h * h))) / sum(heights) ** 2 - 1 > rho;
    });
    const share = kept.length / classes, middle = mean(kept), variance = mean(kept.map((d) => (d - middle) ** 2));
    const left = rho * share - (classes - kept.length) / classes; // (1 + rho) * share - 1, which a small radius would round off
    const theta = middle + Math.sqrt(variance / Math.max(left, 1e-300));
    const lowest = Math.max(...kept);
    const weights = normalised(gaps.map((d) => (d <= lowest ? Math.max(0, theta - d) : 0)));
    return { weights, divergence: spent(weights) };
  }

  /* sum(|w - u|) / 2 <= delta: mass leaves the easiest classes first, and all of it goes to the hardest. */

  function totalVariation(gaps, delta) {
    const classes = gaps.length, top = hardest(gaps), spare = gaps.map((d) => (d === 0 ? 0 : 1 / classes));
    const moved = Math.min(delta, sum(spare));
    let level = 0, filled = 0; // level: the gap of the easiest class that keeps some mass
    for (const d of [...gaps].sort((a, b) => b - a)) {
      filled += d === 0 ? 0 : 1 / classes;
      if (filled >= moved) {
        level = d;
        break;
      }
    }
    const emptied = sum(spare.filter((_, c) => gaps[c] > level)), edge = gaps.filter((d) => d === level).length;
    const taken = gaps.map((d, c) => (d > level ? spare[c] : d === level && d > 0 ? (moved - emptied) / edge : 0));
    return { weights: gaps.map((_, c) => Math.max(0, 1 / classes - taken[c]) + moved * top[c]), divergence: moved };
  }

  /* sum((sqrt(w) - sqrt(u))^2) / 2 <= rho: w_c = (eps / (eps + d_c))^2, normalised. */

  /** Compute the squared coefficient of variation of eps / (eps + d) at eps = exp(s). */
  function variation(s, gaps) {
    const eps = Math.exp(s), q = gaps.map((d) => eps / (eps + d)), middle = mean(q);
    return mean(q.map((value) => (value / middle - 1) ** 2));
  }

  function hellinger(gaps, rho) {
    const most = 1 - Math.sqrt(gaps.filter((d) => d === 0).length / gaps.length);
    if (rho >= most) return { weights: hardest(gaps), divergence: most };
    const target = Math.expm1(-2 * Math.log1p(-rho));
    const s = fallingRoot((at) => variation(at, gaps) - target, -700, 400), eps = Math.exp(s);
    const weights = normalised(gaps.map((d) => (eps / (eps + d)) ** 2));
    return { weights, divergence: -Math.expm1(-0.5 * Math.log1p(variation(s, gaps))) };
  }

  /* w <= u / alpha: the hardest classes are filled first. The radius runs the other way: 1 is uniform. */

  function cvar(gaps, alpha) {
    const classes = gaps.length, cap = 1 / (classes * alpha);
    let level = 1, filled = 0;
    for (const d of [...gaps].sort((a, b) => a - b)) {
      filled += cap;
      if (filled >= 1 - 1e-15) {
        level = d;
        break;
      }
    }
    const above = gaps.filter((d) => d < level).length * cap, edge = gaps.filter((d) => d === level).length;
    const weights = gaps.map((d) => (d < level ? cap : d === level ? (1 - above) / edge : 0));
    return { weights, divergence: 1 / (classes * Math.max(...weights)) };
  }

  /* Mass moves from class i to j at cost[i][j], for at most r in all. Each class sends its share along the upper hull of
     (cost, gain), one journey after the other; the journeys with the most gain for their cost come first. */

  const inARow = (classes) => [...Array(classes)].map((_, i) => [...Array(classes)].map((_, j) => Math.abs(i - j)));

  function journeys(gaps, cost) {
    const found = [];
    gaps.forEach((start, c) => {
      let here = { cost: 0, gap: start, classes: [c] };
      for (;;) {
        const at = here, price = (j) => (at.gap - gaps[j]) / (cost[c][j] - at.cost);
        const farther = gaps.map((_, j) => j).filter((j) => cost[c][j] > at.cost && gaps[j] < at.gap);
        if (!farther.length) break;
        const best = Math.max(...farther.map(price)), good = farther.filter((j) => price(j) >= best * (1 - TIED));
        const end = Math.max(...good.map((j) => cost[c][j]));
        const classes = good.filter((j) => cost[c][j] === end);
        here = { cost: end, gap: gaps[classes[0]], classes };
        found.push({ price: best, from: at.classes, to: here.classes, cost: (here.cost - at.cost) / gaps.length });
      }
    });
    return found.sort((a, b) => b.price - a.price);
  }

  function wasserstein(gaps, radius, cost = inARow(gaps.length)) {
    const weights = gaps.map(() => 1 / gaps.length), found = journeys(gaps, cost);
    let spent = 0;
    while (found.length && spent < radius) {
      const price = found[0].price * (1 - TIED), equal = found.filter((way) => way.price >= price);
      const bill = sum(equal.map((way) => way.cost)), share = Math.min(1, (radius - spent) / bill);
      for (const way of found.splice(0, equal.length)) {
        for (const c of way.from) weights[c] -= share / gaps.length / way.from.length;
        for (const c of way.to) weights[c] += share / gaps.length / way.to.length;
      }
      spent += share * bill;
    }
    return { weights: weights.map((w) => Math.max(0, w)), divergence: spent };
  }

  /** Compute, for the cheapest class to load, the cost of `multiplier` times its share in classes in a row. */
  function cheapestLoad(multiplier, classes) {
    const bills = inARow(classes).map((row) =>
      sum(row.sort((a, b) => a - b).map((cost, k) => (cost * Math.min(1, Math.max(0, multiplier - k))) / classes)));
    return Math.min(...bills);
  }

  /* Of each set: `limits` of the radius; `uniform`, the radius that leaves only U; `reach`, the radius from which on nothing
     changes (for KL, which has none, the end of the slider); `cost`, the radius at which one class can count c* = m times. */
  const rest = (m, classes) => (classes - m) / (classes - 1); // the multiplier of all others
  const SETS = {
    kl: {
      solve: kl, symbol: "τ", limits: [0, Infinity], uniform: 0, start: 0.5, log: true, reach: () => 10,
      cost: (m, classes) => -(Math.log(m) + (classes - 1) * Math.log(rest(m, classes))) / classes,
    },
    "reverse-kl": {
      solve: reverseKl, symbol: "τ", limits: [0, Infinity], uniform: 0, start: 0.5, log: true, reach: Math.log,
      cost: (m, classes) => {
        const easy = rest(m, classes);
        return (m * Math.log(m) + (easy > 0 ? (classes - 1) * easy * Math.log(easy) : 0)) / classes;
      },
    },
    "chi-square": {
      solve: chiSquare, symbol: "ρ", limits: [0, Infinity], uniform: 0, start: 1, log: true, reach: (classes) => classes - 1,
      cost: (m, classes) => (m - 1) ** 2 / (classes - 1),
    },
    "total-variation": {
      solve: totalVariation, symbol: "δ", limits: [0, 1], uniform: 0, start: 0.2, reach: (classes) => 1 - 1 / classes,
      cost: (m, classes) => (m - 1) / classes,
    },
    hellinger: {
      solve: hellinger, symbol: "ρ", limits: [0, 1], uniform: 0, start: 0.1, log: true,
      reach: (classes) => 1 - Math.sqrt(1 / classes),
      cost: (m, classes) => 1 - (Math.sqrt(m) + (classes - 1) * Math.sqrt(rest(m, classes))) / classes,
    },
    cvar: {
      solve: cvar, symbol: "α", limits: [1e-12, 1], uniform: 1, start: 0.5, reach: (classes) => 1 / classes,
      cost: (m) => 1 / m,
    },
    wasserstein: {
      solve: wasserstein, symbol: "r", limits: [0, Infinity], uniform: 0, start: 0.2, reach: (classes) => (classes - 1) / 2,
      cost: cheapestLoad,
    },
    simplex: { solve: (gaps) => ({ weights: hardest(gaps), divergence: mean(gaps.map((d) => (d > 0 ? 1 : 0))) }) },
    point: { solve: (gaps) => ({ weights: gaps.map(() => 1 / gaps.length), divergence: 0 }) },
  };

  /** Return the set of a name. */
  function named(name) {
    if (!Object.hasOwn(SETS, name)) throw new RangeError(`set must be one of ${Object.keys(SETS).join(", ")}, got ${name}.`);
    return SETS[name];
  }

  /** Solve for the worst case: its weights, its expected score, the divergence reached. `simplex` and `point` need no radius. */
  function worstCase(name, scores, radius, cost) {
    const set = named(name), classes = scores.length;
    if (!classes || !scores.every(Number.isFinite)) throw new RangeError(`scores must be finite numbers, got [${scores}].`);
    if (set.limits && !(radius >= set.limits[0] && radius <= set.limits[1])) {
      throw new RangeError(`radius of ${name} must be from ${set.limits[0]} to ${set.limits[1]}, got ${radius}.`);
    }
    const top = Math.max(...scores), bottom = Math.min(...scores), range = top - bottom;
    const still = range <= FLAT * Math.max(Math.abs(top), Math.abs(bottom)) || (set.limits && radius === set.uniform);
    const uniform = { weights: scores.map(() => 1 / classes), divergence: set.uniform ?? 0 };
    const found = still ? uniform : set.solve(scores.map((s) => (top - s) / range), radius, cost);
    return { ...found, value: sum(found.weights.map((w, c) => w * scores[c])) };
  }

  /** Return c*, the most that one class can count, in multiples of its share. */
  function largestMultiplier(name, classes, radius) {
    if (name === "wasserstein") return fallingRoot((m) => radius - cheapestLoad(m, classes), 1, classes);
    const lone = [1, ...Array(classes - 1).fill(0)];
    return classes * Math.max(...worstCase(name, lone, radius).weights);
  }

  /** Return the radius with c* = `multiplier`, from 1 to the number of classes; it is infinite for KL at the latter. */
  function radiusForMultiplier(name, multiplier, classes) {
    const set = named(name);
    if (!set.limits) throw new RangeError(`${name} has no radius.`);
    if (!(multiplier >= 1 && multiplier <= classes)) {
      throw new RangeError(`multiplier must be from 1 to the ${classes} classes, got ${multiplier}.`);
    }
    return multiplier === 1 ? set.uniform : Math.max(set.limits[0], set.cost(multiplier, classes));
  }

  globalThis.faalSolver = Object.freeze({ SETS, worstCase, largestMultiplier, radiusForMultiplier });
})();
