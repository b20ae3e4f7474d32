-- Synchronised mail: folders and messages, the numbers of their changes, and whose turn a mailbox is.
set local lock_timeout = '5s';

do $$
declare
    wanted constant text[][] := array[
        -- What the schedule's function logs in as: it may ask who is due, and nothing else. Its password is set from
        -- outside, by `migrate`.
        ['email_service_scheduler', 'login noinherit nocreatedb nocreaterole'],
        -- Owns the function that answers it.
        ['email_service_clock', 'nologin']
    ];
    role text[];
begin
    foreach role slice 1 in array wanted loop
        begin
            if not exists (select from pg_roles where rolname = role[1]) then
                execute format('create role %I %s', role[1], role[2]);
            end if;
        exception when duplicate_object or unique_violation then
            null; -- Another database of this server was migrated at the same moment.
        end;
    end loop;
end
$$;
grant usage on schema public to email_service_scheduler, email_service_clock;
alter role email_service_scheduler set statement_timeout = '4s';
alter role email_service_scheduler set lock_timeout = '3s';
alter role email_service_scheduler set idle_in_transaction_session_timeout = '5s';
grant select on schema_migrations to email_service_scheduler;

set local role email_service_owner;

-- The last number that a change of a user's got. Whoever changes something holds this row until it commits, so that
-- numbers are given in the order of commits and a reader passes over none. It is the last row that a transaction locks.
create table email_change_numbers (
    tenant_id uuid   not null,
    user_id   uuid   not null,
    last      bigint not null,
    -- Up to this number, what was destroyed is forgotten.
    forgotten bigint not null default 0,
    primary key (tenant_id, user_id)
);

-- What is no more, for those who had it.
create table email_destroyed (
    tenant_id    uuid     not null,
    user_id      uuid     not null,
    number       bigint   not null,
    type         text     not null constraint email_destroyed_type_check check (type in ('account', 'folder', 'message', 'outbox')),
    id           uuid     not null,
    account_id   uuid     not null,
    destroyed_at bigint   not null,
    primary key (tenant_id, user_id, number)
);

alter table email_accounts
    add column rung_at           bigint,
    add column sync_requested_at bigint,
    add column sync_started_at   bigint,
    add column leased_until      bigint,
    add column lease_token       bigint not null default 0,
    add column synced_with       text,
    add column created_number    bigint not null default 0,
    add column changed_number    bigint not null default 0;
comment on column email_accounts.is_syncing is 'Not used: leased_until says it.';
comment on column email_accounts.rung_at is 'When a worker was rung for this account that has not come yet.';
comment on column email_accounts.sync_requested_at is 'When somebody asked for the synchronisation that is to come or runs.';
comment on column email_accounts.sync_started_at is 'When the synchronisation began that runs, or was to go on and has not ended yet.';
comment on column email_accounts.leased_until is 'Until then a worker has the account to itself.';
comment on column email_accounts.lease_token is 'Grows with each lease, and when one is taken back: who holds an older one writes nothing any more.';
comment on column email_accounts.synced_with is 'The mailbox that the folders are of. Where the settings name another one, what is here is matched anew.';

create table email_folders (
    id             uuid    primary key,
    tenant_id      uuid    not null,
    user_id        uuid    not null,
    account_id     uuid    not null,
    -- As the server writes it, to be sent back.
    wire_name      bytea   not null,
    path           text    not null,
    delimiter      text,
    role           text    constraint email_folders_role_check check (role in ('inbox', 'sent', 'drafts', 'trash', 'junk', 'archive', 'all')),
    is_selectable  boolean not null,
    -- A label of Gmail's: its messages lie in the folder of all mail, and email_labels says which they are. Its
    -- uid_validity is null as long as not all of them are told.
    is_label       boolean not null default false,
    -- The server's list has it no more.
    is_gone        boolean not null default false,
    -- As the server counts.
    total          integer not null default 0,
    unread         integer not null default 0,
    -- Null: none of this folder's messages is known by a UID.
    uid_validity   bigint,
    -- Everything below was looked for once.
    uid_next       bigint  not null default 1,
    modseq         bigint,
    -- Whether all that is below uid_next has come.
    is_complete    boolean not null default false,
    -- Rows with a UID and without.
    stored         integer not null default 0,
    orphans        integer not null default 0,
    -- When more than half of it was first seen missing.
    doubted_at     bigint,
    -- When all flags were last compared, at a server that does not tell what changed.
    checked_at     bigint,
    -- Messages that were asked for when a session broke and did not come, as a worker writes them, and how much speaks
    -- against them: one of them may be such that the server breaks each session in which it is fetched.
    suspects       text,
    suspicions     integer not null default 0,
    created_number bigint  not null,
    changed_number bigint  not null,
    constraint email_folders_name_key unique (account_id, wire_name)
);
comment on table email_folders is 'The folders of mailboxes, and how far each is synchronised. Times are milliseconds since the Unix epoch.';

-- Whether a user has labels at all.
create index email_folders_labels_idx on email_folders (user_id) where is_label;

-- No foreign keys: each message would lock its folder's row again. The functions below write messages under a lease of
-- the account only, and delete them before their folder. Wide columns first, so that no byte is lost to alignment.
create table email_messages (
    id              uuid    primary key,
    tenant_id       uuid    not null,
    user_id         uuid    not null,
    account_id      uuid    not null,
    folder_id       uuid    not null,
    identity        uuid    not null,
    thread_id       uuid    not null,
    -- Null: not where it was seen last. It may be found elsewhere, or under another UID; else it is destroyed.
    uid             bigint,
    received_at     bigint  not null,
    sent_at         bigint,
    size            bigint  not null,
    created_number  bigint  not null,
    changed_number  bigint  not null,
    is_read         boolean not null,
    is_flagged      boolean not null,
    is_answered     boolean not null,
    is_draft        boolean not null,
    has_attachments boolean not null,
    is_readable     boolean not null,
    subject         text    not null,
    -- JSON, [[name or null, address], …]; null for none.
    from_list       text,
    to_list         text,
    cc_list         text,
    bcc_list        text,
    reply_to_list   text,
    message_id      text,
    in_reply_to     text,
    preview         text
);
comment on column email_messages.identity is 'Of a message wherever it lies: the server''s own id, or a hash of Message-ID, date, sender and size.';

create unique index email_messages_uid_key on email_messages (folder_id, uid);
create index email_messages_folder_idx on email_messages (folder_id, received_at, id);
create index email_messages_user_idx on email_messages (user_id, received_at, id);
create index email_messages_unread_idx on email_messages (folder_id, received_at, id) where not is_read;
create index email_messages_flagged_idx on email_messages (folder_id, received_at, id) where is_flagged;
create index email_messages_changes_idx on email_messages (user_id, changed_number);
create index email_messages_orphans_idx on email_messages (account_id, identity) where uid is null;

-- Which folders a message is in beside the one where it lies, at Gmail. No foreign keys here either: it is written with
-- messages.
create table email_labels (
    tenant_id   uuid    not null,
    user_id     uuid    not null,
    folder_id   uuid    not null,
    message_id  uuid    not null,
    -- The message's: lists are read from indexes. Whoever changes them there does so here.
    received_at bigint  not null,
    is_read     boolean not null,
    is_flagged  boolean not null,
    primary key (message_id, folder_id)
);
create index email_labels_folder_idx on email_labels (folder_id, received_at, message_id);
create index email_labels_unread_idx on email_labels (folder_id, received_at, message_id) where not is_read;
create index email_labels_flagged_idx on email_labels (folder_id, received_at, message_id) where is_flagged;

do $$
declare
    name text;
begin
    foreach name in array array[
        'email_change_numbers', 'email_destroyed', 'email_folders', 'email_labels', 'email_messages'
    ] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy %I on %I using (
                tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid)
                and user_id = (select nullif(current_setting(''app.user_id'', true), '''')::uuid)
            ) with check (
                tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid)
                and user_id = (select nullif(current_setting(''app.user_id'', true), '''')::uuid)
            )',
            name || '_scope', name
        );
    end loop;
end
$$;

-- Gives a user's next `p_count` changes their numbers, and returns the last of them. In PL/pgSQL, which plans it once for a
-- connection; SQL would each time.
create function next_numbers(p_tenant_id uuid, p_user_id uuid, p_count bigint) returns bigint
language plpgsql
as $$
declare
    v_last bigint;
begin
    insert into email_change_numbers as c (tenant_id, user_id, last) values (p_tenant_id, p_user_id, p_count)
    on conflict (tenant_id, user_id) do update set last = c.last + p_count
    returning last into v_last;
    return v_last;
end
$$;

create function number_account() returns trigger
language plpgsql
as $$
begin
    new.changed_number := next_numbers(new.tenant_id, new.user_id, 1);
    if tg_op = 'INSERT' then
        new.created_number := new.changed_number;
    elsif old.is_enabled and not new.is_enabled then
        insert into email_destroyed (tenant_id, user_id, number, type, id, account_id, destroyed_at)
        values (new.tenant_id, new.user_id, new.changed_number, 'account', new.id, new.id, epoch_ms());
    end if;
    return new;
end
$$;
create trigger email_accounts_insert before insert on email_accounts for each row execute function number_account();
-- What a user sees of it but times, which change with each synchronisation.
create trigger email_accounts_update before update on email_accounts for each row
when (
    (
        old.account_name, old.email_address, old.protocol, old.hostname, old.port, old.encryption, old.username,
        old.is_sync_enabled, old.sync_interval, old.is_enabled, old.smtp_hostname, old.smtp_port, old.smtp_encryption,
        old.smtp_username, old.auth_type, old.provider, old.state, old.last_error_code, old.last_error_message
    ) is distinct from (
        new.account_name, new.email_address, new.protocol, new.hostname, new.port, new.encryption, new.username,
        new.is_sync_enabled, new.sync_interval, new.is_enabled, new.smtp_hostname, new.smtp_port, new.smtp_encryption,
        new.smtp_username, new.auth_type, new.provider, new.state, new.last_error_code, new.last_error_message
    )
)
execute function number_account();

-- Whoever works with the old settings, or on a deleted account, has no lease any more.
create function take_lease_back() returns trigger
language plpgsql
as $$
begin
    new.lease_token := old.lease_token + 1;
    new.leased_until := null;
    new.rung_at := null;
    new.sync_requested_at := null;
    new.sync_started_at := null;
    return new;
end
$$;
create trigger email_accounts_lease before update on email_accounts for each row
when (new.settings_version <> old.settings_version or old.is_enabled and not new.is_enabled)
execute function take_lease_back();

-- Takes the account for a worker, where one was rung for it or did not end, until `p_lease` milliseconds from now. First
-- comes a row with the outcome, `begun`, `busy`, `idle` or `none`, and the account; then one for each of its folders.
create function begin_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_lease bigint)
returns table (outcome text, account email_accounts, sealed_password bytea, folder email_folders)
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
    v_found record;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select a.leased_until, a.rung_at, a.synced_with, concat_ws(' ', a.protocol, a.hostname, a.username) as mailbox
    into v_found
    from email_accounts a
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    for no key update;
    outcome := case
        when not found then 'none'
        when v_found.leased_until > v_now then 'busy'
        when v_found.rung_at is null and v_found.leased_until is null then 'idle'
        else 'begun'
    end;
    if outcome <> 'begun' then
        return next;
        return;
    end if;
    if v_found.synced_with <> v_found.mailbox then
        -- Its UIDs are another mailbox's. Rows are told apart by their identities again.
        update email_folders f set uid_validity = null
        where f.account_id = p_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    end if;
    update email_accounts a
    set leased_until = v_now + p_lease, lease_token = a.lease_token + 1, rung_at = null, synced_with = v_found.mailbox,
        sync_started_at = coalesce(a.sync_started_at, v_now),
        -- Should the worker not end, the next one comes with the end of its lease.
        next_sync_at = v_now + p_lease
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id
    returning a.* into account;
    select c.sealed_password into sealed_password from email_credentials c
    where c.id = (account).credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    return next;
    outcome := 'folder';
    account := null;
    sealed_password := null;
    for folder in
        select * from email_folders f
        where f.account_id = p_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
    loop
        return next;
    end loop;
end
$$;

-- Whether the worker still has the account to itself; it keeps it until the transaction ends.
create function holds_lease(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint) returns boolean
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    perform from email_accounts a
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.lease_token = p_token
        and a.is_enabled
    for share;
    return found;
end
$$;

-- Takes over the server's list of folders, and returns all that are known then; no row where the lease is lost.
create function store_folders(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint,
    p_ids uuid[], p_wire_names bytea[], p_paths text[], p_delimiters text[], p_roles text[], p_selectable boolean[],
    p_labels boolean[]
)
returns setof email_folders
language plpgsql
as $$
declare
    v_last bigint;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    v_last := next_numbers(p_tenant_id, p_user_id, cardinality(p_ids));
    -- A name whose folder is just gone may be another's next time: roles and paths follow the list.
    insert into email_folders as f (
        id, tenant_id, user_id, account_id, wire_name, path, delimiter, role, is_selectable, is_label, created_number,
        changed_number
    )
    select l.id, p_tenant_id, p_user_id, p_account_id, l.wire_name, l.path, l.delimiter, l.role, l.is_selectable,
        l.is_label, v_last - l.nth + 1, v_last - l.nth + 1
    from unnest(p_ids, p_wire_names, p_paths, p_delimiters, p_roles, p_selectable, p_labels)
        with ordinality as l (id, wire_name, path, delimiter, role, is_selectable, is_label, nth)
    on conflict (account_id, wire_name) do update
    set path = excluded.path, delimiter = excluded.delimiter, role = excluded.role,
        is_selectable = excluded.is_selectable, is_label = excluded.is_label, is_gone = false,
        -- What was known of it was known of the other kind.
        uid_validity = case when f.is_label = excluded.is_label then f.uid_validity end,
        changed_number = excluded.changed_number
    where (f.path, f.delimiter, f.role, f.is_selectable, f.is_label, f.is_gone)
        is distinct from
        (excluded.path, excluded.delimiter, excluded.role, excluded.is_selectable, excluded.is_label, false);
    update email_folders f set is_gone = true, uid_validity = null
    where f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id and not f.is_gone
        and f.wire_name <> all (p_wire_names);
    return query
        select f.* from email_folders f
        where f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
end
$$;

-- Takes the UIDs of at most 20,000 messages away, which are then found elsewhere or destroyed: those in `p_gone`, a
-- multirange. Returns how many; null where the lease is lost. As long as it is 20,000 there may be more.
create function orphan_messages(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_id uuid, p_gone text
)
returns integer
language plpgsql
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_count integer;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return null;
    end if;
    update email_messages m set uid = null
    where m.tenant_id = p_tenant_id and m.user_id = p_user_id and m.id in (
        select g.id
        from unnest(p_gone::int8multirange) as r
        cross join lateral (
            select o.id from email_messages o
            where o.folder_id = p_folder_id and o.uid >= lower(r) and o.uid < upper(r)
                and o.tenant_id = p_tenant_id and o.user_id = p_user_id
            offset 0 -- As in store_batch.
        ) g
        limit 20000
    );
    get diagnostics v_count = row_count;
    if v_count > 0 then
        update email_folders f set stored = f.stored - v_count, orphans = f.orphans + v_count
        where f.id = p_folder_id and f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    end if;
    return v_count;
end
$$;

-- Begins folders anew, each under another UIDVALIDITY: to be called after all of their messages are without a UID. What lies
-- below `p_uid_nexts` is to be looked for. False where the lease is lost.
create function reset_folders(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint,
    p_folder_ids uuid[], p_validities bigint[], p_uid_nexts bigint[], p_modseqs bigint[]
)
returns boolean
language plpgsql
as $$
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return false;
    end if;
    update email_folders f
    set uid_validity = r.validity, uid_next = r.uid_next, modseq = r.modseq, is_complete = false, checked_at = null,
        suspects = null, suspicions = 0
    from unnest(p_folder_ids, p_validities, p_uid_nexts, p_modseqs) as r (id, validity, uid_next, modseq)
    where f.id = r.id and f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    return found;
end
$$;

-- What the server says of folders that are labels. Null of `p_validities`: their messages are not all told yet. False where
-- the lease is lost.
create function store_labels(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint,
    p_folder_ids uuid[], p_validities bigint[], p_totals integer[], p_unread integer[]
)
returns boolean
language plpgsql
as $$
declare
    v_last bigint;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return false;
    end if;
    v_last := next_numbers(p_tenant_id, p_user_id, cardinality(p_folder_ids));
    update email_folders f
    set uid_validity = l.validity, total = l.total, unread = l.unread,
        changed_number = case
            when (f.total, f.unread) is distinct from (l.total, l.unread) then v_last - l.nth + 1
            else f.changed_number
        end
    from unnest(p_folder_ids, p_validities, p_totals, p_unread) with ordinality as l (id, validity, total, unread, nth)
    where f.id = l.id and f.account_id = p_account_id and f.is_label
        and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    return true;
end
$$;

-- Compares the UIDs below `p_below` that a folder has there, a multirange, with those that it has here; no row where the
-- lease is lost.
create function compare_uids(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_id uuid, p_present text, p_below bigint
)
returns table (gone text, missing text)
language plpgsql rows 1
as $$
declare
    v_present constant int8multirange := p_present;
    v_known int8multirange;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    select coalesce(range_agg(int8range(m.uid, m.uid + 1)), '{}') into v_known
    from email_messages m
    where m.folder_id = p_folder_id and m.uid < p_below and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    gone := v_known - v_present;
    missing := v_present - v_known;
    return next;
end
$$;

-- The same for a mailbox whose messages are known by their identities (POP3), `p_identities`: the UIDs, given here, of what
-- is gone, what is missing, and how many of the rest are unread.
create function compare_identities(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_id uuid, p_identities uuid[]
)
returns table (gone text, missing uuid[], unread integer)
language plpgsql rows 1
as $$
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    return query
        with known as (
            select m.uid, m.identity, m.is_read, l.identity is not null as is_listed
            from email_messages m left join (select distinct i from unnest(p_identities) i) l (identity) using (identity)
            where m.folder_id = p_folder_id and m.uid is not null
                and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        )
        select
            coalesce((select range_agg(int8range(k.uid, k.uid + 1)) from known k where not k.is_listed), '{}')::text,
            array(select i from unnest(p_identities) i where not exists (select from known k where k.identity = i)),
            (select count(*) from known k where k.is_listed and not k.is_read)::integer;
end
$$;

-- Gives messages that have changed their numbers.
create function renumber_messages(p_tenant_id uuid, p_user_id uuid, p_ids uuid[]) returns void
language plpgsql
as $$
declare
    v_last bigint;
begin
    if cardinality(p_ids) > 0 then
        v_last := next_numbers(p_tenant_id, p_user_id, cardinality(p_ids));
        update email_messages m set changed_number = v_last - c.nth + 1
        from unnest(p_ids) with ordinality as c (id, nth)
        where m.id = c.id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    end if;
end
$$;

-- What came of folders, `p_folder_ids`, in one batch. Of each: the UIDs that are gone, a multirange, whose messages are then
-- found elsewhere or destroyed (for many of them see orphan_messages); and how far that goes, null where a cursor stays. It is complete
-- where that is said and as many are here as the server has. Then flags of messages that are here, messages, and all labels of
-- those in `p_labelled`, each of a folder by its place in `p_folder_ids`. A message that was here without a UID gets its own
-- back, wherever in the account it was. Bits of flags: 1 read, 2 flagged, 4 answered, 8 draft, 16 with attachments,
-- 32 unreadable. Returns the folders' counts in that order; no row where the lease is lost or a folder's UIDs are others by now.
--
-- One plan for batches of all sizes, made once by each connection: rows are found by keys.
create function store_batch(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint,
    p_folder_ids uuid[], p_validities bigint[], p_gone text[],
    p_uid_nexts bigint[], p_modseqs bigint[], p_complete boolean[], p_checked bigint[], p_totals integer[],
    p_unread integer[],
    p_flag_folders integer[], p_flag_uids bigint[], p_flag_bits smallint[],
    p_folders integer[], p_ids uuid[], p_uids bigint[], p_identities uuid[], p_thread_ids uuid[], p_received bigint[],
    p_sent bigint[], p_sizes bigint[], p_bits smallint[], p_subjects text[], p_from text[], p_to text[], p_cc text[],
    p_bcc text[], p_reply_to text[], p_message_ids text[], p_in_reply_to text[], p_previews text[],
    p_labelled_folders integer[], p_labelled bigint[], p_label_folders integer[], p_label_uids bigint[], p_labels uuid[]
)
returns table (stored integer, orphans integer)
language plpgsql rows 10
set plan_cache_mode = force_generic_plan
set jit = off
-- A plan that was made while the table was small is used when it is large. And messages are looked for one by one, by their
-- keys, whatever the planner believes of how many a user or a folder has: left to itself it reads them all. Hence `offset 0`,
-- over which it joins nothing.
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_count integer;
    v_nexts bigint[];
    v_cursors integer := 0;
    -- A folder for each message that was lost, came, or lost its place without a UID to a place with one.
    v_lost uuid[] := '{}';
    v_gone uuid[];
    v_came uuid[] := '{}';
    v_found uuid[] := '{}';
    v_changed uuid[];
    v_changed_bits smallint[];
    v_skipped bigint[] := '{}';
    v_adopted bigint[];
    v_labelled uuid[];
    v_last bigint;
    v_first bigint;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    with locked as (
        select f.uid_next, g.nth
        from unnest(p_folder_ids, p_validities) with ordinality as g (id, validity, nth)
        join email_folders f on f.id = g.id and f.uid_validity = g.validity
        where f.account_id = p_account_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        for no key update of f
    )
    select array_agg(l.uid_next order by l.nth), count(*) into v_nexts, v_count from locked l;
    if v_count < cardinality(p_folder_ids) then
        return;
    end if;

    if num_nonnulls(variadic p_gone) > 0 then
        select coalesce(array_agg(o.id), '{}'), coalesce(array_agg(g.folder_id), '{}') into v_gone, v_lost
        from unnest(p_folder_ids, p_gone) as g (folder_id, gone)
        cross join lateral unnest(g.gone::int8multirange) as r
        cross join lateral (
            select m.id from email_messages m
            where m.folder_id = g.folder_id and m.uid >= lower(r) and m.uid < upper(r)
                and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            offset 0
            for no key update
        ) o;
        update email_messages m set uid = null
        where m.id = any (v_gone) and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    end if;

    if cardinality(p_flag_uids) > 0 then
        -- Numbers are for what differs: a server may tell all flags each time.
        select array_agg(o.id), array_agg(f.bits) into v_changed, v_changed_bits
        from unnest(p_flag_folders, p_flag_uids, p_flag_bits) as f (folder, uid, bits)
        cross join lateral (
            select m.id from email_messages m
            where m.folder_id = p_folder_ids[f.folder] and m.uid = f.uid
                and m.tenant_id = p_tenant_id and m.user_id = p_user_id
                and (m.is_read, m.is_flagged, m.is_answered, m.is_draft)
                    is distinct from (f.bits & 1 <> 0, f.bits & 2 <> 0, f.bits & 4 <> 0, f.bits & 8 <> 0)
            offset 0
            for no key update
        ) o;
    end if;
    if num_nonnulls(variadic p_totals) > 0 then
        v_cursors := cardinality(p_totals);
    end if;
    v_count := v_cursors + coalesce(cardinality(v_changed), 0) + cardinality(p_ids);
    if v_count > 0 then
        v_last := next_numbers(p_tenant_id, p_user_id, v_count);
        v_first := v_last - v_count + 1;
    end if;
    if v_changed is not null then
        update email_messages m
        set is_read = f.bits & 1 <> 0, is_flagged = f.bits & 2 <> 0, is_answered = f.bits & 4 <> 0,
            is_draft = f.bits & 8 <> 0, changed_number = v_first + v_cursors + f.nth - 1
        from unnest(v_changed, v_changed_bits) with ordinality as f (id, bits, nth)
        where m.id = f.id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
        update email_labels l set is_read = f.bits & 1 <> 0, is_flagged = f.bits & 2 <> 0
        from unnest(v_changed, v_changed_bits) as f (id, bits)
        where l.message_id = f.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id;
    end if;

    if cardinality(p_ids) > 0 then
        -- What came before a worker died. Below a folder's cursor only what is missing is asked for.
        if exists (select from unnest(p_folders, p_uids) as g (folder, uid) where g.uid >= v_nexts[g.folder]) then
            select coalesce(array_agg(g.nth), '{}') into v_skipped
            from unnest(p_folders, p_uids) with ordinality as g (folder, uid, nth)
            cross join lateral (
                select from email_messages m
                where m.folder_id = p_folder_ids[g.folder] and m.uid = g.uid
                    and m.tenant_id = p_tenant_id and m.user_id = p_user_id
                offset 0
            ) o
            where g.uid >= v_nexts[g.folder];
        end if;
        if cardinality(v_lost) > 0 or exists (
            select from email_folders f
            where f.account_id = p_account_id and f.orphans > 0 and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        ) then
            -- The same message twice is two: the first of them takes the first of those, the second the second, and before
            -- all one that was in its folder.
            with came as (
                select g.*, p_folder_ids[g.folder] as folder_id,
                    row_number() over (partition by g.identity, g.folder order by g.uid) as copy
                from unnest(p_folders, p_uids, p_identities, p_received, p_bits, p_previews)
                    with ordinality as g (folder, uid, identity, received_at, bits, preview, nth)
                where g.nth <> all (v_skipped)
            ),
            known as (
                select m.id, m.identity, m.folder_id, m.created_number,
                    row_number() over (partition by m.identity, m.folder_id order by m.created_number) as copy
                from email_messages m
                where m.account_id = p_account_id and m.uid is null and m.identity = any (p_identities)
                    and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            ),
            stayed as (select c.nth, k.id, k.folder_id from came c join known k using (identity, folder_id, copy)),
            moved as (
                select c.nth, k.id, k.folder_id
                from (
                    select nth, identity, row_number() over (partition by identity order by folder, uid) as copy
                    from came where nth not in (select nth from stayed)
                ) c
                join (
                    select id, folder_id, identity, row_number() over (partition by identity order by created_number) as copy
                    from known where id not in (select id from stayed)
                ) k using (identity, copy)
            ),
            adopted as (
                update email_messages m
                set folder_id = c.folder_id, uid = c.uid,
                    is_read = c.bits & 1 <> 0, is_flagged = c.bits & 2 <> 0, is_answered = c.bits & 4 <> 0,
                    is_draft = c.bits & 8 <> 0, received_at = c.received_at, preview = coalesce(m.preview, c.preview),
                    changed_number = case
                        when (m.folder_id, m.is_read, m.is_flagged, m.is_answered, m.is_draft) is distinct from
                            (c.folder_id, c.bits & 1 <> 0, c.bits & 2 <> 0, c.bits & 4 <> 0, c.bits & 8 <> 0)
                        then v_last - c.nth + 1
                        else m.changed_number
                    end
                from (select * from stayed union all select * from moved) k join came c using (nth)
                where m.id = k.id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
                returning c.nth, c.folder_id, k.folder_id as found
            )
            select array_agg(a.nth), array_agg(a.folder_id), array_agg(a.found) into v_adopted, v_came, v_found
            from adopted a;
            v_skipped := v_skipped || v_adopted;
            v_came := coalesce(v_came, '{}');
            v_found := coalesce(v_found, '{}');
        end if;
        insert into email_messages (
            id, tenant_id, user_id, account_id, folder_id, identity, thread_id, uid, received_at, sent_at, size,
            created_number, changed_number, is_read, is_flagged, is_answered, is_draft, has_attachments, is_readable,
            subject, from_list, to_list, cc_list, bcc_list, reply_to_list, message_id, in_reply_to, preview
        )
        select p_ids[n], p_tenant_id, p_user_id, p_account_id, p_folder_ids[p_folders[n]], p_identities[n], p_thread_ids[n],
            p_uids[n], p_received[n], p_sent[n], p_sizes[n], v_last - n + 1, v_last - n + 1, p_bits[n] & 1 <> 0,
            p_bits[n] & 2 <> 0, p_bits[n] & 4 <> 0, p_bits[n] & 8 <> 0, p_bits[n] & 16 <> 0, p_bits[n] & 32 = 0,
            p_subjects[n], p_from[n], p_to[n], p_cc[n], p_bcc[n], p_reply_to[n], p_message_ids[n], p_in_reply_to[n],
            p_previews[n]
        from generate_series(1, cardinality(p_ids)) n
        where n <> all (v_skipped);
        v_came := v_came || array(
            select p_folder_ids[g.folder] from unnest(p_folders) with ordinality as g (folder, nth)
            where g.nth <> all (v_skipped)
        );
    end if;

    if cardinality(p_labelled) > 0 then
        v_labelled := array(
            select o.id from unnest(p_labelled_folders, p_labelled) as l (folder, uid)
            cross join lateral (
                select m.id from email_messages m
                where m.folder_id = p_folder_ids[l.folder] and m.uid = l.uid
                    and m.tenant_id = p_tenant_id and m.user_id = p_user_id
                offset 0
            ) o
        );
        with wanted as (
            select distinct m.id as message_id, l.folder_id, m.received_at, m.is_read, m.is_flagged
            from unnest(p_label_folders, p_label_uids, p_labels) as l (folder, uid, folder_id)
            cross join lateral (
                select o.* from email_messages o
                where o.folder_id = p_folder_ids[l.folder] and o.uid = l.uid
                    and o.tenant_id = p_tenant_id and o.user_id = p_user_id
                offset 0
            ) m
        ),
        lost as (
            delete from email_labels l
            where l.message_id = any (v_labelled) and l.tenant_id = p_tenant_id and l.user_id = p_user_id
                and (l.message_id, l.folder_id) not in (select w.message_id, w.folder_id from wanted w)
            returning l.message_id
        ),
        got as (
            insert into email_labels as l (tenant_id, user_id, folder_id, message_id, received_at, is_read, is_flagged)
            select p_tenant_id, p_user_id, w.folder_id, w.message_id, w.received_at, w.is_read, w.is_flagged from wanted w
            on conflict (message_id, folder_id) do update
            set received_at = excluded.received_at, is_read = excluded.is_read, is_flagged = excluded.is_flagged
            where (l.received_at, l.is_read, l.is_flagged)
                is distinct from (excluded.received_at, excluded.is_read, excluded.is_flagged)
            returning l.message_id
        )
        select array_agg(message_id) into v_labelled from (select * from lost union select * from got) o;
        -- Those that have one of this batch's numbers need no other.
        v_labelled := array(
            select m.id from email_messages m
            where m.id = any (v_labelled) and m.tenant_id = p_tenant_id and m.user_id = p_user_id
                and (v_first is null or m.changed_number < v_first)
        );
        perform renumber_messages(p_tenant_id, p_user_id, v_labelled);
    end if;

    return query
        with counted as (
            select c.id, count(*) filter (where c.kind = 'lost')::integer as lost,
                count(*) filter (where c.kind = 'came')::integer as came,
                count(*) filter (where c.kind = 'found')::integer as found
            from (
                select id, 'lost' as kind from unnest(v_lost) id
                union all select id, 'came' from unnest(v_came) id
                union all select id, 'found' from unnest(v_found) id
                union all select id, 'told' from unnest(p_folder_ids) id
            ) c
            group by c.id
        ),
        kept as (
            update email_folders f
            set stored = f.stored - c.lost + c.came, orphans = f.orphans + c.lost - c.found,
                uid_next = coalesce(g.uid_next, f.uid_next), modseq = coalesce(g.modseq, f.modseq),
                is_complete = coalesce(g.is_complete and f.stored - c.lost + c.came = g.total, f.is_complete),
                checked_at = coalesce(g.checked_at, f.checked_at),
                total = coalesce(g.total, f.total), unread = coalesce(g.unread, f.unread),
                changed_number = case
                    when (coalesce(g.total, f.total), coalesce(g.unread, f.unread)) is distinct from (f.total, f.unread)
                    then v_first + g.nth - 1
                    else f.changed_number
                end
            from counted c left join unnest(
                p_folder_ids, p_uid_nexts, p_modseqs, p_complete, p_checked, p_totals, p_unread
            ) with ordinality as g (id, uid_next, modseq, is_complete, checked_at, total, unread, nth) on g.id = c.id
            where f.id = c.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
            returning g.nth, f.stored, f.orphans
        )
        select k.stored, k.orphans from kept k where k.nth is not null order by k.nth;
end
$$;

-- Notes that a session broke while messages of a folder were asked for, and which of them did not come. What lies below
-- `p_uid_next` is missing then; null: that stays. False where the lease is lost.
create function suspect_messages(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint,
    p_folder_id uuid, p_validity bigint, p_uid_next bigint, p_suspects text, p_suspicions integer
)
returns boolean
language plpgsql
as $$
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return false;
    end if;
    update email_folders f
    set suspects = p_suspects, suspicions = p_suspicions, is_complete = false, uid_next = coalesce(p_uid_next, f.uid_next)
    where f.id = p_folder_id and f.account_id = p_account_id and f.uid_validity = p_validity
        and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    return found;
end
$$;

-- A message of a folder that could be fetched once. No row where there is none, or the lease is lost.
create function find_readable(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_id uuid)
returns table (uid bigint, identity uuid)
language plpgsql rows 1
as $$
begin
    if holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return query
            select m.uid, m.identity from email_messages m
            where m.folder_id = p_folder_id and m.uid is not null and m.is_readable
                and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            order by m.received_at desc
            limit 1;
    end if;
end
$$;

-- Destroys at most 5,000 messages of folders that were found nowhere, and folders that are gone with the last of them and
-- of those that they were labels of.
-- Where they are more than half of a folder, that is only noted; it holds when it is still so `p_patience` milliseconds
-- later. `doubt`: that was so of one of them; `more`: there may be more. No row where the lease is lost.
create function destroy_orphans(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_folder_ids uuid[], p_patience bigint
)
returns table (more boolean, doubt boolean)
language plpgsql rows 1
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off -- A plan that was made while the table was small is used when it is large.
as $$
declare
    v_now constant bigint := epoch_ms();
    v_sure uuid[];
    v_doubted uuid[];
    v_folder email_folders;
    v_ids uuid[];
    v_places uuid[];
    v_count integer;
    v_last bigint;
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    with locked as (
        select f.*, f.orphans > f.stored and coalesce(f.doubted_at, v_now) > v_now - p_patience as is_doubted
        from email_folders f
        where f.id = any (p_folder_ids) and f.account_id = p_account_id
            and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        for update
    )
    select array_agg(l.id) filter (where not l.is_doubted), array_agg(l.id) filter (where l.is_doubted)
    into v_sure, v_doubted from locked l;
    doubt := v_doubted is not null;
    if doubt then
        update email_folders f set doubted_at = v_now
        where f.id = any (v_doubted) and f.doubted_at is null and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
    end if;
    select array_agg(o.id), array_agg(o.folder_id), count(*) into v_ids, v_places, v_count from (
        select m.id, m.folder_id from email_messages m
        where m.account_id = p_account_id and m.uid is null and m.folder_id = any (v_sure)
            and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        limit 5000
    ) o;
    more := v_count = 5000;
    if v_count > 0 then
        delete from email_messages m
        where m.id = any (v_ids) and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
        delete from email_labels l
        where l.message_id = any (v_ids) and l.tenant_id = p_tenant_id and l.user_id = p_user_id;
        v_last := next_numbers(p_tenant_id, p_user_id, v_count);
        insert into email_destroyed (tenant_id, user_id, number, type, id, account_id, destroyed_at)
        select p_tenant_id, p_user_id, v_last - o.nth + 1, 'message', o.id, p_account_id, v_now
        from unnest(v_ids) with ordinality as o (id, nth);
    end if;
    update email_folders f
    set orphans = case when more then f.orphans - coalesce(d.count, 0) else 0 end,
        -- A doubt that was confirmed holds for the rest of them.
        doubted_at = case when more then f.doubted_at end
    from unnest(v_sure) as s (id)
    left join (select p.id, count(*)::integer as count from unnest(v_places) as p (id) group by p.id) d using (id)
    where f.id = s.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        and (f.orphans > 0 or f.doubted_at is not null);
    if not more then
        for v_folder in
            select f.* from email_folders f
            where f.id = any (v_sure) and f.is_gone and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        loop
            if v_folder.is_label then
                with lost as (
                    delete from email_labels l
                    where l.tenant_id = p_tenant_id and l.user_id = p_user_id and l.folder_id = v_folder.id
                        and l.message_id in (
                            select o.message_id from email_labels o where o.folder_id = v_folder.id limit 5000
                        )
                    returning l.message_id
                )
                select array_agg(message_id), count(*) into v_ids, v_count from lost;
                perform renumber_messages(p_tenant_id, p_user_id, v_ids);
                more := v_count = 5000;
                exit when more;
            end if;
            delete from email_folders f
            where f.id = v_folder.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
            v_last := next_numbers(p_tenant_id, p_user_id, 1);
            insert into email_destroyed (tenant_id, user_id, number, type, id, account_id, destroyed_at)
            values (p_tenant_id, p_user_id, v_last, 'folder', v_folder.id, p_account_id, v_now);
        end loop;
    end if;
    return next;
end
$$;

-- Gives the account back. `p_more`: there is work left, and somebody is rung for it. `p_complete`: all that was there has
-- come. `p_pause`: milliseconds until the next one; null for never. False where the lease was lost.
create function finish_sync(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_more boolean, p_complete boolean,
    p_state text, p_failures integer, p_pause bigint, p_code text, p_message text, p_service text
)
returns boolean
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_accounts a
    set leased_until = null,
        rung_at = case when p_more then v_now end,
        sync_requested_at = case when p_more then a.sync_requested_at end,
        sync_started_at = case when p_more then a.sync_started_at end,
        last_sync_at = case when p_complete then v_now else a.last_sync_at end,
        next_sync_at = v_now + p_pause,
        state = p_state, failures = p_failures,
        state_changed_at = case when a.state <> p_state then v_now else a.state_changed_at end,
        last_error_code = p_code, last_error_message = p_message, last_error_service = p_service,
        last_error_at = case when p_code is not null then v_now end
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.lease_token = p_token
        and a.is_enabled;
    return found;
end
$$;

-- Gives the account back undone: its turn comes again after `p_pause` milliseconds.
create function postpone_sync(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_pause bigint)
returns void
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_accounts a set leased_until = null, next_sync_at = epoch_ms() + p_pause
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.lease_token = p_token
        and a.is_enabled;
end
$$;

grant select, insert, update on email_change_numbers to email_service_app, email_service_mail;
grant insert on email_destroyed to email_service_app;
grant select on email_destroyed, email_folders, email_labels, email_messages to email_service_app;
grant update (
    rung_at, sync_requested_at, sync_started_at, leased_until, lease_token, next_sync_at
) on email_accounts to email_service_app;
grant select, insert on email_destroyed to email_service_mail;
grant select, insert, update, delete on email_folders, email_labels, email_messages to email_service_mail;
grant update (
    rung_at, sync_requested_at, sync_started_at, leased_until, lease_token, synced_with, last_sync_at
) on email_accounts to email_service_mail;

-- Who is due, in the order of their turns. Those that a user does not want synchronised are, where he asks for it.
create index email_accounts_due_idx on email_accounts (next_sync_at)
    where is_enabled and (is_sync_enabled or sync_requested_at is not null) and next_sync_at is not null;

grant select (id, tenant_id, user_id, is_enabled, is_sync_enabled, sync_requested_at, next_sync_at, state),
    update (rung_at, next_sync_at) on email_accounts to email_service_clock;
create policy email_accounts_clock on email_accounts to email_service_clock using (true) with check (true);

-- Takes note that somebody is rung for at most `p_limit` accounts that are due, of all tenants, and returns whose they are.
-- Where nobody comes, they are due again after `p_again` milliseconds.
create function claim_due(p_limit integer, p_again bigint)
returns table (tenant_id uuid, user_id uuid, account_id uuid, due_at bigint)
language plpgsql security definer
set search_path = ''
as $$
declare
    v_now constant bigint := public.epoch_ms();
    v_ids uuid[];
    v_due bigint[];
begin
    -- In two statements: what is to be expected of a limit that is not known the planner takes for a tenth of the table, and
    -- would read all of it to find these rows again.
    select array_agg(d.id), array_agg(d.next_sync_at) into v_ids, v_due
    from (
        select a.id, a.next_sync_at from public.email_accounts a
        where a.is_enabled and (a.is_sync_enabled or a.sync_requested_at is not null) and a.next_sync_at is not null
            and a.next_sync_at <= v_now
        order by a.next_sync_at
        limit p_limit
        for no key update skip locked
    ) d;
    return query
        update public.email_accounts a set rung_at = v_now, next_sync_at = v_now + p_again
        from unnest(v_ids, v_due) as d (id, due_at) where a.id = d.id
        returning a.tenant_id, a.user_id, a.id, d.due_at;
end
$$;

-- How many accounts of all tenants are in each state, for the dashboard. It reads the table.
create function count_account_states()
returns table (state text, accounts bigint)
language sql stable security definer
set search_path = ''
as $$
    select a.state, count(*) from public.email_accounts a where a.is_enabled group by a.state
$$;

reset role;
-- As in V2 and V5.
grant email_service_clock to current_user;
grant create on schema public to email_service_clock;
alter function claim_due(integer, bigint) owner to email_service_clock;
alter function count_account_states() owner to email_service_clock;
revoke execute on function claim_due(integer, bigint), count_account_states() from public;
grant execute on function claim_due(integer, bigint), count_account_states() to email_service_scheduler;
revoke create on schema public from email_service_clock;
revoke email_service_clock from current_user;
