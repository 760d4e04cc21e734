// What a page cannot show ends that page, and no more: one of our bugs, or the answer of a server
// of another version, which stays chosen until somebody chooses another at the top.

import { Component } from 'preact';
import { Said } from './said.jsx';

export class Boundary extends Component {
  state = { error: null, at: null };

  static getDerivedStateFromError(error) {
    return { error };
  }

  componentDidCatch(error) {
    console.error(error);
    this.setState({ at: this.props.at });
  }

  render({ at, children }, { error, at: failedAt }) {
    if (error === null || (failedAt !== null && failedAt !== at)) return children;
    return (
      <section>
        <h1>This page cannot be shown</h1>
        <p class="problem bad" role="alert"><Said text={String(error?.message ?? error)} /></p>
        <button onClick={() => this.setState({ error: null, at: null })}>Try again</button>
      </section>
    );
  }
}
