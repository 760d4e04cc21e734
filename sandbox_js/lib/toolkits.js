'use strict';
// The state that moment and Q keep inside, and how to reset it. They are recognized by what they
// are: an app's node_modules may bring copies of their own.

const TIMES = 10;   // how often a locale may have been updated

/** Whether a module is Q. */
function isQueue(found) {
  return typeof found === 'function' && typeof found.defer === 'function'
    && typeof found.resetUnhandledRejections === 'function';
}

/** How to reset the module `found`; null if it keeps no such state. */
function resetOf(found) {
  const has = (...names) => names.every((name) => typeof found[name] === 'function');
  if (has('isMoment', 'locale', 'localeData', 'defineLocale')) return resetMoment(found);
  if (isQueue(found)) return resetQ(found);
  return null;
}

function resetQ({ resetUnhandledRejections }) {
  return () => { resetUnhandledRejections(); return false; };
}

/**
 * @returns {function(): boolean|string} Resets; whether there was anything to reset, or what cannot
 *   be.
 */
function resetMoment(moment) {
  const {
    locale, localeData, defineLocale, updateLocale, locales = () => [],
    relativeTimeThreshold = () => false, relativeTimeRounding = () => false,
  } = moment;
  const name = locale(), data = localeData();
  const names = new Map([...locales()].map((each) => [each, localeData(each)]));
  const thresholds = ['s', 'ss', 'm', 'h', 'd', 'w', 'M']
    .map((unit) => [unit, relativeTimeThreshold(unit)])
    .filter(([, value]) => value !== false);
  const rounding = relativeTimeRounding();
  let turn = 0;

  function restoreLocale(each, then) {
    for (let times = 0; localeData(each) !== then; times++) {
      if (times === TIMES || typeof updateLocale !== 'function') return false;
      updateLocale(each, null);
    }
    return true;
  }

  return () => {
    let hasFound = false;
    // One of many locales in turn: an app that has them all does not update one that it has not
    // chosen.
    const now = [...locales()], looked = now.length > 0 ? now[turn++ % now.length] : name;
    if (locale() !== name || localeData() !== data || now.length !== names.size
      || (names.has(looked) && localeData(looked) !== names.get(looked))) {
      hasFound = true;
      locale(name);
      for (const each of now) if (!names.has(each)) defineLocale(each, null);
      for (const [each, then] of names) {
        if (!restoreLocale(each, then)) return `moment's locale ${each} was changed`;
      }
      locale(name);
      if (localeData() !== data) return `moment's locale ${name} was changed`;
    }
    if (thresholds.some(([unit, value]) => relativeTimeThreshold(unit) !== value)) {
      hasFound = true;
      for (const [unit, value] of thresholds) relativeTimeThreshold(unit, value);
    }
    if (rounding && relativeTimeRounding() !== rounding) {
      hasFound = true;
      relativeTimeRounding(rounding);
    }
    return hasFound;
  };
}

module.exports = { isQueue, resetOf };
