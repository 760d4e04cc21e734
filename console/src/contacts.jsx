// The people: contacts with their details, groups, opt-outs; of one account at a time.

import { useCallback } from 'preact/hooks';
import { Link, useSearchParams } from 'wouter-preact';
import { get, url, useData } from './api.js';
import { count } from './format.js';
import { More, Problem, Table, usePages } from './parts.jsx';
import { Said } from './said.jsx';

const contactPath = (account, key) => (
  `/ui/contacts/${encodeURIComponent(account)}/${encodeURIComponent(key)}`);

// The accounts that apps have, and the one that the URL names.
function useAccount() {
  const [search, setSearch] = useSearchParams();
  const { data, error } = useData('/v1/apps');
  const accounts = [...new Set((data?.apps ?? []).map((one) => one.account))].sort();
  return { account: search.get('account') ?? accounts[0], accounts, search, setSearch, error };
}

function AccountChoice({ account, accounts }) {
  return (
    <label>Account
      <select name="account" onChange={(event) => event.target.form.requestSubmit()}>
        {accounts.map((name) => <option key={name} selected={name === account}>{name}</option>)}
      </select>
    </label>
  );
}

function useList(account, kind, query) {
  const path = account === undefined ? null
    : url(['v1', 'accounts', account, kind], { limit: 50, ...query });
  const load = useCallback(async (cursor) => {
    if (path === null) return { rows: [], cursor: null };
    const page = await get(cursor === null ? path : `${path}&cursor=${encodeURIComponent(cursor)}`);
    return { rows: page[kind], cursor: page.cursor ?? null, count: page.count };
  }, [path, kind]);
  return usePages(load);
}

export function Contacts() {
  const { account, accounts, search, setSearch, error } = useAccount();
  const query = search.get('query') ?? '';
  const pages = useList(account, 'contacts', { query });
  const submitted = (event) => {
    event.preventDefault();
    const form = Object.fromEntries(new FormData(event.currentTarget));
    setSearch(Object.entries(form).filter(([, value]) => value.trim()));
  };
  return (
    <>
      <h1>Contacts</h1>
      <form class="filters" onSubmit={submitted} aria-label="Search contacts">
        <AccountChoice account={account} accounts={accounts} />
        <label class="wide">Query
          <input name="query" type="search" defaultValue={query} key={query}
            placeholder="name:thabo* AND extras-city:durban" size="40" /></label>
        <button>Search</button>
      </form>
      <Problem error={error ?? pages.error} />
      <Table label="Contacts" empty={pages.isBusy ? 'Loading …' : pages.error ? '' : 'None found.'}
        head={['Key', 'Name', 'Surname', 'Number', '#Groups']}>
        {pages.rows.map((one) => (
          <tr key={one.key}>
            <td class="id">
              <Link href={contactPath(account, one.key)}><Said text={one.key} /></Link></td>
            <td><Said text={one.name} /></td>
            <td><Said text={one.surname} /></td>
            <td><Said text={one.msisdn} /></td>
            <td class="n">{one.groups?.length ?? 0}</td>
          </tr>
        ))}
      </Table>
      <More pages={pages} />
    </>
  );
}

// What apps added to a contact: fields that begin with these have a part of the page to themselves.
const PARTS = [['extras-', 'Extras'], ['subscription-', 'Subscriptions']];

const isOwn = (field) => PARTS.some(([prefix]) => field.startsWith(prefix));

export function Contact({ account, id }) {
  const { data, error } = useData(url(['v1', 'accounts', account, 'contacts', id]));
  const groups = useData(url(['v1', 'accounts', account, 'groups']));
  const names = new Map((groups.data?.groups ?? []).map((one) => [one.key, one.name]));
  const contact = data?.contact;
  const name = [contact?.name, contact?.surname].filter(Boolean).join(' ');
  const given = Object.entries(contact ?? {}).filter(([, value]) => value !== null && value !== '');
  const facts = given.filter(([field]) => field !== 'groups' && !isOwn(field));
  const parts = PARTS.map(([prefix, title]) => (
    { prefix, title, own: given.filter(([field]) => field.startsWith(prefix)) }));
  return (
    <>
      <h1>Contact <Said text={name || id} /></h1>
      <p><Link href={`/ui/contacts?account=${encodeURIComponent(account)}`}>All contacts</Link></p>
      <Problem error={error} />
      {contact && (
        <>
          <dl class="facts">
            {facts.map(([field, value]) => (
              <div key={field}><dt>{field}</dt><dd><Said text={value} lines /></dd></div>
            ))}
            <div><dt>groups</dt><dd>
              {(contact.groups ?? []).map((key) => (
                <span class="tag" key={key} title={key}><Said text={names.get(key) ?? key} /></span>
              ))}
              {!contact.groups?.length && 'none'}
            </dd></div>
          </dl>
          {parts.map(({ prefix, title, own }) => own.length > 0 && (
            <section key={prefix}>
              <h2>{title}</h2>
              <dl class="facts">
                {own.map(([field, value]) => (
                  <div key={field}>
                    <dt><Said text={field.slice(prefix.length)} /></dt>
                    <dd><Said text={value} lines /></dd>
                  </div>
                ))}
              </dl>
            </section>
          ))}
        </>
      )}
    </>
  );
}

const changed = (setSearch) => (event) => {
  event.preventDefault();
  setSearch({ account: new FormData(event.currentTarget).get('account') });
};

export function Groups() {
  const { account, accounts, setSearch, error } = useAccount();
  const pages = useList(account, 'groups');
  return (
    <>
      <h1>Groups</h1>
      <form class="filters" onSubmit={changed(setSearch)} aria-label="Choose an account">
        <AccountChoice account={account} accounts={accounts} />
      </form>
      <Problem error={error ?? pages.error} />
      <Table label="Groups" empty={pages.isBusy ? 'Loading …' : 'There are none.'}
        head={['Name', 'Key', 'Kind', '#Members', 'Query']}>
        {pages.rows.map((one) => (
          <tr key={one.key}>
            <th scope="row"><Said text={one.name} /></th>
            <td class="id"><Said text={one.key} /></td>
            <td>{one.query ? 'smart' : 'static'}</td>
            <td class="n">{count(one.members)}</td>
            <td class="wide"><Said text={one.query} /></td>
          </tr>
        ))}
      </Table>
      <More pages={pages} />
    </>
  );
}

export function OptOuts() {
  const { account, accounts, setSearch, error } = useAccount();
  const pages = useList(account, 'optouts');
  return (
    <>
      <h1>Opt-outs</h1>
      <form class="filters" onSubmit={changed(setSearch)} aria-label="Choose an account">
        <AccountChoice account={account} accounts={accounts} />
      </form>
      <Problem error={error ?? pages.error} />
      {pages.count != null && <p>{count(pages.count)} addresses have opted out.</p>}
      <Table label="Opt-outs" empty={pages.isBusy ? 'Loading …' : 'There are none.'}
        head={['Address', 'Type', 'Since', 'Message']}>
        {pages.rows.map((one) => (
          <tr key={`${one.address_type} ${one.address_value}`}>
            <td><Said text={one.address_value} /></td>
            <td><Said text={one.address_type} /></td>
            <td><Said text={one.created_at} /></td>
            <td class="id"><Said text={one.message_id} /></td>
          </tr>
        ))}
      </Table>
      <More pages={pages} />
    </>
  );
}
