'use strict';
// Node's module `events`, for apps and their packages. Node's own is never handed out: whoever
// replaces a method of its prototype is called with the harness's stdin, and from there reaches
// everything in the process.
//
// Objects have the same fields as Node's (`_events` and so on), so that methods of the one work on
// emitters of the other, such as streams.

// Runs INSIDE the library realm.
function bootstrap(isError, show) {
  'use strict';
  const { create, defineProperty, defineProperties, getPrototypeOf } = Object;
  const { apply, ownKeys } = Reflect;
  const errorMonitor = Symbol('events.errorMonitor');
  let defaultMax = 10;

  function invalid(Type, code, message) {
    const error = new Type(message);
    return defineProperty(error, 'code', {
      value: code, enumerable: true, writable: true, configurable: true,
    });
  }

  function checkListener(listener) {
    if (typeof listener === 'function') return;
    const what = 'The "listener" argument must be of type function. Received ';
    throw invalid(TypeError, 'ERR_INVALID_ARG_TYPE', what + show(listener));
  }

  function checkCount(n, name) {
    if (typeof n === 'number' && n >= 0) return;
    const what = 'The value of "' + name + '" is out of range. It must be a non-negative number. '
      + 'Received ';
    throw invalid(RangeError, 'ERR_OUT_OF_RANGE', what + show(n));
  }

  function EventEmitter(options) { EventEmitter.init.call(this, options); }

  EventEmitter.prototype._events = undefined;
  EventEmitter.prototype._eventsCount = 0;
  EventEmitter.prototype._maxListeners = undefined;

  EventEmitter.init = function () {
    if (this._events === undefined || this._events === getPrototypeOf(this)._events) {
      this._events = create(null);
      this._eventsCount = 0;
    }
    this._maxListeners = this._maxListeners || undefined;
  };

  function method(name, value) {
    defineProperty(value, 'name', { value: name, configurable: true });
    EventEmitter.prototype[name] = value;
  }

  method('setMaxListeners', function (n) {
    checkCount(n, 'setMaxListeners');
    this._maxListeners = n;
    return this;
  });

  method('getMaxListeners', function () {
    return this._maxListeners === undefined ? defaultMax : this._maxListeners;
  });

  function throwUnhandled(error) {
    if (isError(error)) throw error;
    let shown;
    try { shown = show(error); } catch { shown = String(error); }
    const wrapped = invalid(Error, 'ERR_UNHANDLED_ERROR', 'Unhandled error. (' + shown + ')');
    wrapped.context = error;
    throw wrapped;
  }

  method('emit', function (type, ...args) {
    const events = this._events;
    if (type === 'error') {
      if (events !== undefined && events[errorMonitor] !== undefined) {
        apply(this.emit, this, [errorMonitor, ...args]);
      }
      if (events === undefined || events.error === undefined) throwUnhandled(args[0]);
    }
    const handler = events === undefined ? undefined : events[type];
    if (handler === undefined) return false;
    if (typeof handler === 'function') {
      apply(handler, this, args);
    } else {
      const listeners = handler.slice();
      for (let i = 0; i < listeners.length; i++) apply(listeners[i], this, args);
    }
    return true;
  });

  function add(target, type, listener, isFirst) {
    checkListener(listener);
    let events = target._events;
    if (events === undefined) {
      events = target._events = create(null);
      target._eventsCount = 0;
    } else if (events.newListener !== undefined) {
      // To avoid recursion if type === 'newListener': before the listener is added.
      target.emit('newListener', type, listener.listener ? listener.listener : listener);
      events = target._events;   // a listener may have replaced it
    }
    const there = events[type];
    if (there === undefined) {
      events[type] = listener;
      ++target._eventsCount;
    } else if (typeof there === 'function') {
      events[type] = isFirst ? [listener, there] : [there, listener];
    } else if (isFirst) there.unshift(listener); else there.push(listener);
    return target;
  }

  method('addListener', function (type, listener) { return add(this, type, listener, false); });
  EventEmitter.prototype.on = EventEmitter.prototype.addListener;
  method('prependListener', function (type, listener) { return add(this, type, listener, true); });

  function onceOf(target, type, listener) {
    let isFired = false;
    function wrapped(...args) {
      if (isFired) return undefined;
      target.removeListener(type, wrapped);
      isFired = true;
      return apply(listener, target, args);
    }
    wrapped.listener = listener;
    return wrapped;
  }

  method('once', function (type, listener) {
    checkListener(listener);
    return this.on(type, onceOf(this, type, listener));
  });

  method('prependOnceListener', function (type, listener) {
    checkListener(listener);
    return this.prependListener(type, onceOf(this, type, listener));
  });

  function forget(target, type) {
    if (--target._eventsCount === 0) target._events = create(null);
    else delete target._events[type];
  }

  method('removeListener', function (type, listener) {
    checkListener(listener);
    const events = this._events, list = events === undefined ? undefined : events[type];
    if (list === undefined) return this;
    if (list === listener || list.listener === listener) {
      forget(this, type);
      if (events.removeListener) this.emit('removeListener', type, list.listener || listener);
    } else if (typeof list !== 'function') {
      let at = list.length - 1;
      while (at >= 0 && list[at] !== listener && list[at].listener !== listener) at--;
      if (at < 0) return this;
      if (at === 0) list.shift(); else list.splice(at, 1);
      if (list.length === 1) events[type] = list[0];
      if (events.removeListener !== undefined) this.emit('removeListener', type, listener);
    }
    return this;
  });
  EventEmitter.prototype.off = EventEmitter.prototype.removeListener;

  method('removeAllListeners', function (type) {
    const events = this._events;
    if (events === undefined) return this;
    if (events.removeListener === undefined) {   // nobody wants to know of it
      if (arguments.length === 0) {
        this._events = create(null);
        this._eventsCount = 0;
      } else if (events[type] !== undefined) forget(this, type);
      return this;
    }
    if (arguments.length === 0) {
      for (const key of ownKeys(events)) {
        if (key !== 'removeListener') this.removeAllListeners(key);
      }
      this.removeAllListeners('removeListener');
      this._events = create(null);
      this._eventsCount = 0;
      return this;
    }
    const list = events[type];
    if (typeof list === 'function') this.removeListener(type, list);
    else if (list !== undefined) {   // the last one first
      for (let i = list.length - 1; i >= 0; i--) this.removeListener(type, list[i]);
    }
    return this;
  });

  function listenersOf(target, type, isRaw) {
    const events = target._events, list = events === undefined ? undefined : events[type];
    if (list === undefined) return [];
    if (typeof list === 'function') return [isRaw ? list : list.listener || list];
    return isRaw ? list.slice() : list.map((listener) => listener.listener || listener);
  }

  method('listeners', function (type) { return listenersOf(this, type, false); });
  method('rawListeners', function (type) { return listenersOf(this, type, true); });
  method('listenerCount', function (type, listener) {
    const events = this._events, list = events === undefined ? undefined : events[type];
    if (list === undefined) return 0;
    const isWanted = (one) => !listener || one === listener || one.listener === listener;
    if (typeof list === 'function') return isWanted(list) ? 1 : 0;
    return listener ? list.filter(isWanted).length : list.length;
  });
  method('eventNames', function () { return this._eventsCount > 0 ? ownKeys(this._events) : []; });

  function once(emitter, type) {
    return new Promise((resolve, reject) => {
      const failed = (error) => { emitter.removeListener(type, done); reject(error); };
      const done = (...args) => { emitter.removeListener('error', failed); resolve(args); };
      emitter.once(type, done);
      if (type !== 'error') emitter.once('error', failed);
    });
  }

  function on(emitter, type) {
    const values = [], waiting = [];
    let failure = null, isOver = false;
    const take = (...args) => {
      const next = waiting.shift();
      if (next) next.resolve({ value: args, done: false }); else values.push(args);
    };
    const fail = (error) => {
      const next = waiting.shift();
      if (next) next.reject(error); else failure = { error };
      finish();
    };
    const finish = () => {
      isOver = true;
      emitter.removeListener(type, take);
      emitter.removeListener('error', fail);
      for (const { resolve } of waiting.splice(0)) resolve({ value: undefined, done: true });
      return Promise.resolve({ value: undefined, done: true });
    };
    emitter.on(type, take);
    if (type !== 'error') emitter.on('error', fail);
    return {
      next() {
        if (values.length > 0) return Promise.resolve({ value: values.shift(), done: false });
        if (failure !== null) {
          const { error } = failure;
          failure = null;
          return Promise.reject(error);
        }
        if (isOver) return Promise.resolve({ value: undefined, done: true });
        return new Promise((resolve, reject) => { waiting.push({ resolve, reject }); });
      },
      return: finish,
      throw(error) { fail(error); return Promise.resolve({ value: undefined, done: true }); },
      [Symbol.asyncIterator]() { return this; },
    };
  }

  Object.assign(EventEmitter, {
    once, on, errorMonitor, EventEmitter, usingDomains: false,
    captureRejectionSymbol: Symbol.for('nodejs.rejection'), captureRejections: false,
    getEventListeners: (emitter, type) => emitter.listeners(type),
    getMaxListeners: (emitter) => emitter.getMaxListeners(),
    listenerCount: (emitter, type) => emitter.listenerCount(type),
    setMaxListeners(n = defaultMax, ...targets) {
      checkCount(n, 'setMaxListeners');
      if (targets.length === 0) defaultMax = n;
      for (const target of targets) target.setMaxListeners(n);
    },
  });
  defineProperties(EventEmitter, {
    defaultMaxListeners: {
      enumerable: true,
      get: () => defaultMax,
      set(n) { checkCount(n, 'defaultMaxListeners'); defaultMax = n; },
    },
  });
  return { events: EventEmitter, reset() { defaultMax = 10; } };
}

module.exports = { bootstrap };
