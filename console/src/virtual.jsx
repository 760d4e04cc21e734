// A list of very many lines, of which only those in sight are on the page; TanStack Virtual says
// which. Lines may have any height: each is measured when it is shown.

import {
  Virtualizer, elementScroll, observeElementOffset, observeElementRect,
} from '@tanstack/virtual-core';
import { useEffect, useLayoutEffect, useReducer, useState } from 'preact/hooks';

export function useVirtual(options) {
  const [, draw] = useReducer((turn) => turn + 1, 0);
  const all = {
    observeElementRect,
    observeElementOffset,
    scrollToFn: elementScroll,
    overscan: 12,
    onChange: draw,
    ...options,
  };
  const [virtual] = useState(() => new Virtualizer(all));
  virtual.setOptions(all);
  useEffect(() => virtual._didMount(), []);
  useLayoutEffect(() => virtual._willUpdate());
  return virtual;
}
