'use strict';
// vumigo_v02's classes behave as the toolkit defines them.

const assert = require('node:assert/strict');
const { createRequire } = require('node:module');
const path = require('node:path');
const { test } = require('node:test');
const { createLibrary } = require('../lib/library');

const library = createLibrary({ modulesDir: '', console() {} });
library.preload(['vumigo_v02']);
const quick = library.load('vumigo_v02').utils;
// As it is without us: loaded by Node itself.
const plain = createRequire(path.join(__dirname, '..', 'app.js'))('vumigo_v02').utils;

/** What can be seen of classes that are made with a toolkit's utils, as text. */
const LOOKS = {
  'arguments reach each constructor after itself'({ Extendable }) {
    const seen = [];
    const A = Extendable.extend(function (...all) {
      seen.push(['A', all[0] === this, all.length, ...all.slice(1)]);
    });
    const B = A.extend(function (self, ...rest) {
      seen.push(['B', self === this, ...rest]);
      A.call(self, ...rest, 'more');
    });
    new B(); new B(1); new B(1, undefined, [2], null);
    B.apply(Object.create(B.prototype), { length: 2, 0: 'x' });
    return seen;
  },
  'what a constructor changes in its arguments stays there'({ Extendable }) {
    const given = [1, 2], seen = [];
    const A = Extendable.extend(function (self, first) {
      arguments[1] = 'changed';   // eslint-disable-line prefer-rest-params
      seen.push(first, arguments.length);   // eslint-disable-line prefer-rest-params
    });
    A.apply({}, given);
    return [seen, given];
  },
  'a class without a constructor has its parent\'s'({ Extendable }) {
    const A = Extendable.extend(function (self, name) { self.name = name; });
    const B = A.extend(), C = B.extend(null);
    return [new C('x').name, new C() instanceof A, new C().constructor === C];
  },
  'statics are inherited'({ Extendable }) {
    const A = Extendable.extend(function () {});
    A.made = () => 1;
    const B = A.extend(function () {});
    return [B.made(), Object.keys(B).sort(), B.super_ === A, B.length, B.name];
  },
  'an object that a constructor returns is the result'({ Extendable }) {
    const other = { other: true };
    const A = Extendable.extend(() => other), B = Extendable.extend(() => 7);
    return [new A() === other, new B() instanceof B, A() === other, B()];
  },
  'called without new, and without this'({ Extendable }) {
    const A = Extendable.extend(function (self) { return typeof self; });
    return [A(), (0, A)(), A.call(undefined), A.call(null), A.call(3)];
  },
  'a constructor that throws, or is none'({ Extendable }) {
    const tried = (call) => { try { return call(); } catch (error) { return error.name; } };
    const A = Extendable.extend(() => { throw new RangeError('no'); });
    return [tried(() => new A()), tried(() => new (Extendable.extend(class {}))())];
  },
  'errors'({ BaseError }) {
    const Mine = BaseError.extend(function (self, message) {
      self.name = 'Mine';
      self.message = message;
    });
    const Other = Mine.extend(function (self, message) { Mine.call(self, message + '!'); });
    const error = new Other('no');
    return [String(error), error instanceof Mine, error instanceof BaseError, 'stack' in error];
  },
};

for (const [what, look] of Object.entries(LOOKS)) {
  test(what, () => {
    assert.notEqual(quick.Extendable.extend.toString(), plain.Extendable.extend.toString());
    assert.equal(JSON.stringify(look(quick)), JSON.stringify(look(plain)));
  });
}

test('the toolkit\'s own classes are made so', () => {
  const { utils, App, events } = library.load('vumigo_v02');
  for (const { extend } of [utils.BaseError, App, events.Eventable]) {
    assert.equal(extend, quick.Extendable.extend);
  }
});
