'use strict';
// vumigo_v02's classes, made without what is slow in them: each `new` of one moved the arguments of
// its constructors one place on, once for every class that it extends, by a call that V8 is slow
// at. It was a twentieth of a run.

const path = require('node:path');

const UTILS = path.join(path.dirname(__dirname), 'node_modules', 'vumigo_v02', 'lib', 'utils.js');

// Runs INSIDE the library realm; as the toolkit's own functions not in strict mode, in which `this`
// may be another.
function bootstrap({ inherit, Extendable, BaseError }) {
  /* As in the toolkit; its documentation is there. */
  function extend(Child) {
    const Parent = this;
    const Surrogate = function (...args) {
      return Child ? Child.call(this, this, ...args) : Parent.apply(this, args);
    };
    return inherit(Parent, Surrogate);
  }
  Extendable.extend = extend;
  BaseError.extend = extend;
}

/** Whether a file is that which defines the classes. */
function isClasses(file) { return file === UTILS; }

module.exports = { bootstrap, isClasses };
