'use strict';
// What the toolkits work out anew in every run although it depends on a text alone, remembered:
// Jed parses the same rule for plurals, and vumigo_v02 compiles the same templates.
//
// Nothing of a run is kept by it: what is remembered is frozen and has no state.

const path = require('node:path');

const BUNDLED = path.join(path.dirname(__dirname), 'node_modules') + path.sep;
const TRANSLATE = path.join(BUNDLED, 'vumigo_v02', 'lib', 'translate.js');
const MOST = 200;          // texts of a kind
const LONGEST = 1000;      // characters; a longer one is not remembered

// Runs INSIDE the library realm.
function bootstrap(most, longest) {
  'use strict';
  const { create, freeze } = Object, { ownKeys } = Reflect;
  const call = Function.prototype.call.bind(Function.prototype.call);
  const { get, set, clear } = Map.prototype, { exec } = RegExp.prototype;
  // Nothing but names: what else a template may hold can have effects.
  const PLAIN = /^(?:[^{]|\{(?![{%])|\{\{[ \t]*[\w$]+(?:\.[\w$]+)*[ \t]*\}\})*$/;

  /** Freeze the function, or the tree of plain objects, that was made for a text. */
  function freezeAll(value) {
    if (typeof value === 'function') {
      freeze(value.prototype);
    } else {
      for (const key of ownKeys(value)) {
        if (typeof value[key] === 'object' && value[key] !== null) freezeAll(value[key]);
      }
    }
    return freeze(value);
  }

  /** A function like `compute`, of one text. */
  function remembered(compute) {
    const known = new Map();
    let count = 0;
    return function (text) {
      const found = call(get, known, text);
      if (found !== undefined) return found;
      const made = freezeAll(call(compute, this, text));
      if (++count > most) { call(clear, known); count = 1; }
      call(set, known, text, made);
      return made;
    };
  }

  const isShort = (text) => typeof text === 'string' && text.length <= longest;

  /** Have a copy of Jed remember the rules that it has parsed. */
  function rememberRules({ PF: rules }) {
    const { extractPluralExpr, parser, parse: plain } = rules, { parse: parseExpression } = parser;
    const parse = remembered(plain);
    rules.parse = function (text) {
      const isUsual = rules.extractPluralExpr === extractPluralExpr && rules.parser === parser
        && parser.parse === parseExpression;
      return isUsual && isShort(text) ? parse(text) : plain(text);
    };
  }

  /** What vumigo_v02 translates with: lodash, which it has set up for templates of its own. */
  function rememberTemplates(lodash) {
    const plain = lodash.template, compile = remembered(plain);
    let then = null;   // the settings as vumigo_v02 has made them

    function look() {
      const { templateSettings: all } = lodash;
      const { escape, evaluate, interpolate, variable, imports } = all;
      return {
        all, escape, evaluate, interpolate, variable, imports, keys: ownKeys(all).length,
        sources: `${escape.source} ${evaluate.source} ${interpolate.source}`,
      };
    }

    function isUsual() {
      if (lodash.template !== plain) return false;
      const now = look();
      for (const key in then) if (now[key] !== then[key]) return false;
      return ownKeys(now.imports).length === 1 && now.imports._ === lodash;
    }

    function template(text, ...more) {
      then ??= look();
      const isPlain = more.length === 0 && isShort(text) && call(exec, PLAIN, text) !== null;
      return isPlain && isUsual() ? compile(text) : lodash.template(text, ...more);
    }

    return create(lodash, { template: { value: template } });
  }

  return { rememberRules, rememberTemplates };
}

const isBundled = (file) => file.startsWith(BUNDLED);

/** Whether a module that is loaded is the bundled Jed. */
function isRules(file, found) {
  return isBundled(file) && typeof found?.PF?.parse === 'function'
    && typeof found.PF.parser?.parse === 'function';
}

/** Whether what the file `from` requires as `name` is what vumigo_v02 translates with. */
function isForTemplates(from, name) { return from === TRANSLATE && name === 'lodash'; }

module.exports = {
  isForTemplates, isRules, bootstrap: `(${bootstrap})(${MOST}, ${LONGEST})`,
};
