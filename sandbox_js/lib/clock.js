'use strict';
// Sets the clock to a time other than the real one, for `jsbox replay`
// (supervisor/tools/replay.py).

const vm = require('node:vm');

// Runs INSIDE the realm whose clock is set.
function bootstrap(shift) {
  'use strict';
  const Real = Date, { construct } = Reflect, realNow = Date.now;
  const usual = { writable: true, configurable: true };
  const now = () => realNow() + shift;
  function Shifted(...args) {
    if (!new.target) return new Real(now()).toString();
    return construct(Real, args.length === 0 ? [now()] : args, new.target);
  }
  Object.defineProperties(Shifted, {
    name: { value: 'Date' },
    length: { value: 7 },
    prototype: { value: Real.prototype, writable: false },
    now: { value: now, ...usual },
    parse: { value: Real.parse, ...usual },
    UTC: { value: Real.UTC, ...usual },
  });
  Object.defineProperty(Real.prototype, 'constructor', { value: Shifted, ...usual });
  Object.defineProperty(globalThis, 'Date', { value: Shifted, ...usual });
}

const BOOTSTRAP = new vm.Script(`(${bootstrap})`, { filename: 'jsbox:clock' });

/** Let a realm's clock be `shift` milliseconds ahead of the real one. */
function setClock(context, shift) {
  if (shift !== 0) BOOTSTRAP.runInContext(context)(shift);
}

module.exports = { setClock };
