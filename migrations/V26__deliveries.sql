-- A message that is sent costs PostgreSQL less: fewer and shorter statements, as a turn's since V25. Its hourly limits say which
-- of them was met. And a mailbox that kills its workers is given up.
set local lock_timeout = '5s';
set local role email_service_owner;

-- As in V24, by fewer statements: the account comes with its secrets, and what was not named is not looked for.
create or replace function claim_outgoing(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_lease bigint)
returns table (
    task text, entry email_outbox, account email_accounts, sealed_password bytea, sealed_smtp_password bytea,
    answered_folder bytea, answered_validity bigint, answered_uid bigint, upload_names text[], upload_types text[],
    upload_sizes bigint[]
)
language plpgsql rows 1
as $$
declare
    c_deaths constant smallint := 3;
    -- As in mailbox/src/outbox.rs.
    c_looks constant smallint := 27;
    c_day constant bigint := 24 * 60 * 60 * 1000;
    v_now constant bigint := epoch_ms();
    v_is_held boolean;
    v_found record;
    v_context constant text :=
        set_config('app.tenant_id', p_tenant_id::text, true) || set_config('app.user_id', p_user_id::text, true);
begin
    select a as account, c.sealed_password, c.sealed_smtp_password into v_found
    from email_accounts a
    left join email_credentials c on c.id = a.credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    if not found then
        return;
    end if;
    account := v_found.account;
    sealed_password := v_found.sealed_password;
    sealed_smtp_password := v_found.sealed_smtp_password;
    v_is_held := coalesce((account).sending_held_until > v_now, false);
    if v_is_held then
        -- Not those that others are just changing: they wait for the number that this one has by now.
        update email_outbox o
        set next_attempt_at = (account).sending_held_until, due_at = (account).sending_held_until,
            ring_at = (account).sending_held_until
        where o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.id in (
            select w.id from email_outbox w
            where w.account_id = p_account_id and w.tenant_id = p_tenant_id and w.user_id = p_user_id
                and w.status in ('scheduled', 'queued') and w.due_at <= v_now
            order by w.due_at
            limit 1000
            for no key update skip locked
        );
    end if;
    loop
        select * into entry from email_outbox o
        where o.account_id = p_account_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.due_at <= v_now
            and not (v_is_held and o.status in ('scheduled', 'queued'))
        -- Of those that waited for a limit none meets it again and again before the others.
        order by o.due_at, o.attempts
        limit 1
        for update skip locked;
        exit when not found;
        if (entry).status = 'sending' and (entry).dot_at is not null then
            update email_outbox o
            set status = 'uncertain', looks = 0,
                response = 'The service was interrupted while the mail server took the message.'
            where o.id = (entry).id and o.tenant_id = p_tenant_id and o.user_id = p_user_id
            returning o.* into entry;
        elsif (entry).status = 'sending' and (entry).deaths + 1 >= c_deaths and (entry).tried_since < v_now - c_day then
            update email_outbox o
            set status = 'failed', next_attempt_at = null, leased_until = null, lease_token = o.lease_token + 1,
                -- Of what some have got already the sender keeps a copy.
                due_at = case when o.copy = 'due' then v_now end, ring_at = case when o.copy = 'due' then v_now end,
                response = 'The service could not send this message.'
            where o.id = (entry).id and o.tenant_id = p_tenant_id and o.user_id = p_user_id;
            continue;
        elsif (entry).status <> 'sending' and (entry).leased_until is not null then
            -- Who looked into the sent folder has not lived to say so: that was a look, too.
            update email_outbox o
            set looks = o.looks + 1, leased_until = null, lease_token = o.lease_token + 1,
                due_at = case when o.looks + 1 < c_looks then o.due_at end,
                ring_at = case when o.looks + 1 < c_looks then o.ring_at end,
                copy = case when o.looks + 1 >= c_looks and o.copy = 'due' then 'abandoned' else o.copy end
            where o.id = (entry).id and o.tenant_id = p_tenant_id and o.user_id = p_user_id
            returning o.* into entry;
            if (entry).due_at is null then
                continue;
            end if;
        end if;
        task := case
            when (entry).status in ('scheduled', 'queued', 'sending') then 'send'
            when (entry).status = 'uncertain' then 'look'
            else 'copy'
        end;
        update email_outbox o
        set leased_until = v_now + p_lease, due_at = v_now + p_lease, ring_at = v_now + p_lease,
            lease_token = o.lease_token + 1,
            status = case when task = 'send' then 'sending' else o.status end,
            attempts = o.attempts + (task = 'send')::integer,
            deaths = o.deaths + ((entry).status = 'sending')::integer,
            tried_since = case when task = 'send' then coalesce(o.tried_since, v_now) else o.tried_since end,
            next_attempt_at = null
        where o.id = (entry).id and o.tenant_id = p_tenant_id and o.user_id = p_user_id
        returning o.* into entry;
        if (entry).reply_to_id is not null then
            -- What it answers, where that is in the same mailbox.
            select f.wire_name, f.uid_validity, m.uid into answered_folder, answered_validity, answered_uid
            from email_messages m join email_folders f on f.id = m.folder_id
            where m.id = (entry).reply_to_id and m.account_id = p_account_id and m.tenant_id = p_tenant_id
                and m.user_id = p_user_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
        end if;
        if cardinality((entry).uploads) > 0 then
            -- What goes along; null for what is gone.
            select array_agg(u.filename order by asked.place), array_agg(u.content_type order by asked.place),
                array_agg(u.size order by asked.place)
            into upload_names, upload_types, upload_sizes
            from unnest((entry).uploads) with ordinality as asked (id, place)
            left join email_uploads u on u.id = asked.id and u.tenant_id = p_tenant_id and u.user_id = p_user_id;
        end if;
        return next;
        exit;
    end loop;
end
$$;

-- As claim_outgoing, in columns of what a worker reads: see begin_turn.
create function begin_delivery(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_lease bigint)
returns table (
    task text, id uuid, tenant_id uuid, user_id uuid, account_name varchar, email_address varchar, protocol varchar,
    hostname varchar, port integer, encryption varchar, username varchar, credential_id uuid, is_sync_enabled boolean,
    sync_interval integer, last_sync_at bigint, is_enabled boolean, created_at bigint, updated_at bigint,
    smtp_hostname varchar, smtp_port integer, smtp_encryption varchar, smtp_username varchar, auth_type varchar,
    provider varchar, state varchar, state_changed_at bigint, failures smallint, next_sync_at bigint,
    last_error_code varchar, last_error_message varchar, last_error_service varchar, last_error_at bigint,
    sync_requested_at bigint, leased_until bigint, settings_version integer, entry_id uuid, entry_message_id text,
    sender_name text, sender_address text, content text, status text, attempts integer, next_attempt_at bigint,
    response text, recipients text, sent_at bigint, entry_created_at bigint, sealed_password bytea,
    sealed_smtp_password bytea, answered_folder bytea, answered_validity bigint, answered_uid bigint,
    upload_names text[], upload_types text[], upload_sizes bigint[], dated_at bigint, tried_for bigint,
    original_id text, original_references text[], doubtful integer[], doubted integer[], filed text, looks smallint,
    entry_token bigint
)
language plpgsql rows 1
as $$
begin
    return query select
        c.task, (c.account).id, (c.account).tenant_id, (c.account).user_id, (c.account).account_name,
        (c.account).email_address, (c.account).protocol, (c.account).hostname, (c.account).port,
        (c.account).encryption, (c.account).username, (c.account).credential_id, (c.account).is_sync_enabled,
        (c.account).sync_interval, (c.account).last_sync_at, (c.account).is_enabled, (c.account).created_at,
        (c.account).updated_at, (c.account).smtp_hostname, (c.account).smtp_port, (c.account).smtp_encryption,
        (c.account).smtp_username, (c.account).auth_type, (c.account).provider, (c.account).state,
        (c.account).state_changed_at, (c.account).failures, (c.account).next_sync_at, (c.account).last_error_code,
        (c.account).last_error_message, (c.account).last_error_service, (c.account).last_error_at,
        (c.account).sync_requested_at, (c.account).leased_until, (c.account).settings_version, (c.entry).id,
        (c.entry).message_id, (c.entry).sender_name, (c.entry).sender_address, (c.entry).content, (c.entry).status,
        (c.entry).attempts, (c.entry).next_attempt_at, (c.entry).response, (c.entry).recipients, (c.entry).sent_at,
        (c.entry).created_at, c.sealed_password, c.sealed_smtp_password, c.answered_folder, c.answered_validity,
        c.answered_uid, c.upload_names, c.upload_types, c.upload_sizes, (c.entry).dated_at,
        epoch_ms() - (c.entry).tried_since, (c.entry).original_id, (c.entry).original_references, (c.entry).doubtful,
        (c.entry).doubted, (c.entry).copy, (c.entry).looks, (c.entry).lease_token
    from claim_outgoing(p_tenant_id, p_user_id, p_account_id, p_lease) c;
end
$$;

-- As in V16, and as in V24, but for the same reasons.
create or replace function commit_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_token bigint, p_doubtful integer[])
returns boolean
language plpgsql
as $$
declare
    v_context constant text :=
        set_config('app.tenant_id', p_tenant_id::text, true) || set_config('app.user_id', p_user_id::text, true);
begin
    update email_outbox o set dot_at = epoch_ms(), doubtful = p_doubtful
    from email_accounts a
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.lease_token = p_token
        and o.status = 'sending' and o.leased_until > epoch_ms()
        and a.id = o.account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    return found;
end
$$;

create or replace function finish_outgoing(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_token bigint, p_status text, p_recipients text, p_doubtful integer[],
    p_response text, p_copy text, p_looks integer, p_pause bigint, p_hold bigint, p_is_untried boolean
)
returns table (is_noted boolean, is_more boolean)
language plpgsql rows 1
as $$
declare
    v_now bigint := epoch_ms();
    v_is_over constant boolean := p_pause is null and p_status in ('sent', 'rejected', 'canceled');
    v_account_id uuid;
    v_reply_to_id uuid;
    v_uploads uuid[];
    v_is_answer boolean not null := false;
    v_context constant text :=
        set_config('app.tenant_id', p_tenant_id::text, true) || set_config('app.user_id', p_user_id::text, true);
begin
    select o.account_id, o.reply_to_id, o.uploads into v_account_id, v_reply_to_id, v_uploads from email_outbox o
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id;
    if p_hold is not null then
        -- Whoever locks an account does so before what belongs to it.
        perform from email_accounts a
        where a.id = v_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        for no key update;
    end if;
    if v_is_over and cardinality(v_uploads) > 0 then
        perform lock_uploads(p_tenant_id, p_user_id, v_uploads);
    end if;
    if p_status = 'sent' and v_reply_to_id is not null then
        -- Where a server keeps flags, the worker asks it.
        perform from email_messages m join email_accounts a on a.id = m.account_id
        where m.id = v_reply_to_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id and not m.is_answered
            and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.protocol = 'pop3'
        for no key update of m;
        v_is_answer := found;
    end if;
    update email_outbox o
    set status = p_status, recipients = p_recipients, doubtful = p_doubtful, response = p_response, copy = p_copy,
        looks = p_looks, dot_at = case when p_status = 'uncertain' then o.dot_at end,
        sent_at = case when p_status = 'sent' then coalesce(o.sent_at, v_now) end,
        next_attempt_at = case when p_status = 'queued' then v_now + p_pause end,
        due_at = v_now + p_pause, ring_at = v_now + p_pause, leased_until = null, lease_token = o.lease_token + 1,
        attempts = o.attempts - p_is_untried::integer, deaths = case when p_is_untried then o.deaths else 0 end,
        tried_since = case when p_is_untried and o.attempts = 1 then null else o.tried_since end
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.lease_token = p_token;
    is_noted := found;
    if not found then
        is_more := true; -- Perhaps; who asks sees.
        return next;
        return;
    end if;
    if v_is_over and cardinality(v_uploads) > 0 then
        -- Its files are needed no more.
        perform use_uploads(p_tenant_id, p_user_id, p_id, '{}');
    end if;
    if v_is_answer then
        update email_messages m set is_answered = true, changed_number = next_numbers(p_tenant_id, p_user_id, 1)
        where m.id = v_reply_to_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    end if;
    if p_hold is not null then
        update email_accounts a set sending_held_until = greatest(a.sending_held_until, v_now + p_hold)
        where a.id = v_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    end if;
    v_now := epoch_ms();
    is_more := exists (
        select from email_outbox o
        where o.account_id = v_account_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.due_at <= v_now
    );
    return next;
end
$$;

-- As in V24, but that `entry` names the account where the limit that was met is its own, and nobody where it is the user's.
create or replace function insert_outgoing(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_account_id uuid, p_content text, p_recipients text, p_send_at bigint,
    p_reply_to_id uuid, p_forward_of_id uuid, p_uploads uuid[], p_missing uuid[], p_draft_id uuid, p_most_bytes bigint,
    p_per_hour integer, p_user_per_hour integer, p_key_hash bytea, p_fingerprint bytea
)
returns table (claim text, outcome text, unknown text[], wait bigint, entry email_outbox)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_claim record;
    v_account email_accounts;
    v_original email_messages;
    v_oldest bigint;
    v_due bigint;
    v_is_draft_there boolean not null := true;
    v_alike uuid[];
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    v_claim := claim_key(p_tenant_id, p_user_id, p_key_hash, p_fingerprint);
    claim := v_claim.claim;
    outcome := v_claim.outcome;
    if claim <> 'new' then
        select * into entry from email_outbox o
        where o.id = (v_claim.made ->> 'id')::uuid and o.tenant_id = p_tenant_id and o.user_id = p_user_id;
        entry := jsonb_populate_record(entry, v_claim.made);
        return next;
        return;
    end if;
    -- Two at once would both find room for one.
    perform lock_addresses(p_tenant_id, p_user_id);
    if p_draft_id is not null then
        -- Whoever locks a draft does so before its files.
        perform from email_drafts d
        where d.id = p_draft_id and d.tenant_id = p_tenant_id and d.user_id = p_user_id
        for update;
        v_is_draft_there := found;
    end if;
    unknown := unknown_references(
        p_tenant_id, p_user_id, p_account_id, p_reply_to_id, p_forward_of_id, p_uploads, null
    );
    if not v_is_draft_there then
        unknown := unknown || 'draftId'::text;
    end if;
    select * into v_account from email_accounts a
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    if cardinality(unknown) > 0 then
        outcome := 'unknown';
    elsif p_most_bytes < octet_length(p_content) + (
        select coalesce(sum(encoded_size(u.size)), 0)
        from unnest(p_uploads) as asked (id)
        join email_uploads u on u.id = asked.id and u.tenant_id = p_tenant_id and u.user_id = p_user_id
    ) then
        outcome := 'tooLarge';
    else
        -- Those that were deleted too.
        v_alike := array(
            select a.id from email_accounts a
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id
                and (a.id = p_account_id or a.address_key = v_account.address_key)
        );
        -- Of each limit the one that must be an hour old before the next may come.
        select counted.created_at, counted.account_id into v_oldest, entry.account_id from (
            (
                select o.created_at, p_account_id as account_id from email_outbox o
                where p_per_hour is not null and o.tenant_id = p_tenant_id and o.user_id = p_user_id
                    and o.account_id = any (v_alike) and o.created_at > v_now - 3600000
                order by o.created_at desc
                offset p_per_hour - 1 limit 1
            )
            union all
            (
                select o.created_at, null::uuid from email_outbox o
                where p_user_per_hour is not null and o.tenant_id = p_tenant_id and o.user_id = p_user_id
                    and o.created_at > v_now - 3600000
                order by o.created_at desc
                offset p_user_per_hour - 1 limit 1
            )
        ) counted
        order by counted.created_at desc
        limit 1;
        if v_oldest is not null then
            outcome := 'limited';
            wait := v_oldest + 3600000 - v_now;
        end if;
    end if;
    if outcome is not null then
        perform give_key_up(p_tenant_id, p_user_id, p_key_hash);
        return next;
        return;
    end if;
    outcome := case when v_account.smtp_hostname is null then 'noServer' when cardinality(p_missing) > 0 then 'notPut' end;
    if outcome is not null then
        perform keep_answer(p_tenant_id, p_user_id, p_key_hash, outcome, null);
        return next;
        return;
    end if;
    select m.* into v_original from email_messages m
    where m.id = coalesce(p_reply_to_id, p_forward_of_id) and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    outcome := 'created';
    v_due := greatest(p_send_at, v_now);
    insert into email_outbox as o (
        id, tenant_id, user_id, account_id, status, created_at, send_at, dated_at, message_id, sender_name, sender_address,
        content, recipients, uploads, reply_to_id, forward_of_id, original_id, original_references, next_attempt_at, due_at,
        ring_at
    )
    values (
        p_id, p_tenant_id, p_user_id, p_account_id, case when v_due > v_now then 'scheduled' else 'queued' end, v_now,
        p_send_at, v_due,
        -- Two addresses that became one are told apart by what stands behind a space there.
        p_id || '@' || split_part(regexp_replace(v_account.address_key, '^.*@', ''), ' ', 1),
        v_account.account_name, v_account.email_address, p_content, p_recipients, p_uploads, p_reply_to_id, p_forward_of_id, v_original.message_id,
        coalesce(v_original.reference_ids, array_remove(array[v_original.in_reply_to], null)), v_due, v_due,
        -- Whoever puts it here rings. That bell may be lost.
        case when v_due > v_now then v_due else v_now + 60000 end
    )
    returning o.* into entry;
    if cardinality(p_uploads) > 0 then
        perform use_uploads(p_tenant_id, p_user_id, p_id, p_uploads);
    end if;
    if p_draft_id is not null then
        perform delete_draft(p_tenant_id, p_user_id, p_draft_id);
    end if;
    if p_key_hash is not null then
        perform keep_answer(p_tenant_id, p_user_id, p_key_hash, outcome, jsonb_build_object(
            'id', p_id, 'status', (entry).status, 'attempts', 0, 'next_attempt_at', v_due, 'response', null,
            'recipients', p_recipients, 'sent_at', null
        ));
    end if;
    return next;
end
$$;

-- A mailbox that kills its workers is left alone like one whose jobs fail each time. Who is dead does not say so: it is counted where the
-- next one begins.
alter table email_accounts add column deaths smallint not null default 0;
comment on column email_accounts.deaths is 'How many leases in a row have run out since a turn ended. At the fifth the account is given up, and has four from then on.';
grant update (deaths) on email_accounts to email_service_mail;
-- A function that hands on all columns of another's accounts remembers how many there were, for as long as its connection lasts, unless
-- it is another by then: so each is changed to what it is.
do $$
declare
    v_function record;
begin
    for v_function in
        select p.oid::regprocedure as signature, p.procost as cost from pg_proc p join pg_language l on l.oid = p.prolang
        where p.proowner = current_user::regrole and l.lanname = 'plpgsql'
            and 'email_accounts'::regtype = any (p.prorettype || coalesce(p.proallargtypes, '{}'))
    loop
        execute format('alter function %s cost %s', v_function.signature, v_function.cost);
    end loop;
end
$$;

-- As in V25, but that it counts who has not lived to give the account back. At the fifth in a row the turn is not begun and the account
-- given up (`givenUp`). Whoever comes with an old bell then hears the same, until that is a dead letter.
create or replace function begin_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_lease bigint)
returns table (outcome text, account email_accounts, sealed_password bytea, folder email_folders)
language plpgsql
as $$
declare
    c_deaths constant smallint := 5;
    v_now constant bigint := epoch_ms();
    v_context constant text :=
        set_config('app.tenant_id', p_tenant_id::text, true) || set_config('app.user_id', p_user_id::text, true);
begin
    update email_accounts a
    set leased_until = v_now + p_lease, lease_token = a.lease_token + 1, rung_at = null,
        deaths = a.deaths + (a.leased_until is not null)::integer,
        -- Where this is another mailbox than the last one, what was known of that one is forgotten (forget_hidden).
        synced_with = concat_ws(' ', a.protocol, a.hostname, a.username),
        sync_started_at = coalesce(a.sync_started_at, v_now),
        -- Should the worker not end, the next one comes with the end of its lease; after a second one later, and not at one time
        -- for all that died together, or the mailbox that kills would take the others with it again and again.
        next_sync_at = v_now + p_lease
            + case when a.leased_until is null then 0 else (random() * (a.deaths + 1) * p_lease)::bigint end
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        and coalesce(a.leased_until <= v_now, a.rung_at is not null)
    returning a.* into account;
    if not found then
        select case
            when a.leased_until > v_now then 'busy'
            when a.deaths >= c_deaths - 1 and a.last_error_code = 'unavailable' and a.next_sync_at > v_now then 'givenUp'
            else 'idle'
        end into outcome
        from email_accounts a
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
        outcome := coalesce(outcome, 'none');
        return next;
        return;
    end if;
    if (account).deaths >= c_deaths then
        -- An hour at the most, and not the same for all. The words are those of shared/src/db/secrets.rs.
        perform give_up_sync(
            p_tenant_id, p_user_id, p_id, 3600000 - (random() * 720000)::bigint,
            'The service could not synchronise this account. It tries again in an hour.'
        );
        outcome := 'givenUp';
        account := null;
        return next;
        return;
    end if;
    outcome := 'begun';
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

-- As in V8, but that of an account of which workers have died one more is enough from then on, and that an old bell, when it becomes a
-- dead letter, puts nothing off.
create or replace function give_up_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_pause bigint, p_message text)
returns void
language plpgsql
as $$
declare
    -- One less than in begin_sync.
    c_deaths constant smallint := 4;
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_accounts a
    set rung_at = null, sync_requested_at = null, sync_started_at = null, leased_until = null,
        deaths = least(a.deaths, c_deaths),
        -- Should the one that failed be at work still, it writes nothing any more.
        lease_token = a.lease_token + 1,
        next_sync_at = v_now + p_pause, last_error_code = 'unavailable', last_error_message = p_message,
        last_error_service = a.protocol, last_error_at = v_now
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        and (a.deaths < c_deaths or a.leased_until is not null or a.rung_at is not null);
end
$$;

-- As in V22. Who ends a turn has lived, whatever came of it.
create or replace function finish_sync(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_more boolean, p_complete boolean,
    p_state text, p_failures integer, p_pause bigint, p_code text, p_message text, p_service text
)
returns boolean
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
    v_context constant text :=
        set_config('app.tenant_id', p_tenant_id::text, true) || set_config('app.user_id', p_user_id::text, true);
begin
    update email_accounts a
    set leased_until = null, deaths = 0,
        rung_at = case when p_more then v_now end,
        sync_requested_at = case when p_more then a.sync_requested_at end,
        sync_started_at = case when p_more then a.sync_started_at end,
        last_sync_at = case when p_complete then v_now else a.last_sync_at end,
        next_sync_at = case
            when p_pause is not null and p_code is null and not p_more
                and (a.rung_at is not null or a.next_sync_at <= v_now)
            then v_now
            else v_now + p_pause
        end,
        state = p_state, failures = p_failures,
        state_changed_at = case when a.state <> p_state then v_now else a.state_changed_at end,
        last_error_code = p_code, last_error_message = p_message, last_error_service = p_service,
        last_error_at = case when p_code is not null then v_now end
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.lease_token = p_token
        and a.is_enabled;
    return found;
end
$$;

-- As in V19, but that other settings, which may be another mailbox's, begin anew. A user who ends a turn, and a worker that finds its
-- host busy, have shown nothing: what they give back keeps its count.
create or replace function take_lease_back() returns trigger
language plpgsql
as $$
begin
    new.lease_token := old.lease_token + 1;
    new.leased_until := null;
    new.deaths := 0;
    new.rung_at := null;
    new.sync_requested_at := null;
    new.sync_started_at := null;
    new.sending_held_until := null;
    return new;
end
$$;

-- Which messages without a UID those are of which nothing can be read where they lie now: by the server's own id of each, or where it has
-- none by when it was received and how long it is, if nothing else that is looked for, or looks for it, agrees in both but copies of the
-- same. Returns what each is known by, in the order of the arguments; null for none. No row where the lease is lost.
create function find_orphans(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_token bigint, p_identities uuid[], p_received bigint[],
    p_sizes bigint[]
)
returns table (identities uuid[])
language plpgsql rows 1
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off -- As in V7, and hence `offset 0` as there.
set enable_bitmapscan = off
as $$
begin
    if not holds_lease(p_tenant_id, p_user_id, p_account_id, p_token) then
        return;
    end if;
    return query
        with asked as (
            select a.*, count(*) over (partition by a.received_at, a.size) as copies
            from unnest(p_identities, p_received, p_sizes) with ordinality as a (identity, received_at, size, nth)
        ),
        alike as (
            select m.received_at, m.size, (array_agg(m.identity))[1] as identity, count(*) as copies
            from (select distinct a.received_at from asked a where a.identity is null) t
            -- A whole mailbox may be without UIDs. Of one moment there are few.
            cross join lateral (
                select o.account_id, o.uid, o.identity, o.received_at, o.size from email_messages o
                where o.user_id = p_user_id and o.received_at = t.received_at and o.tenant_id = p_tenant_id
                offset 0
            ) m
            where m.account_id = p_account_id and m.uid is null
            group by m.received_at, m.size
            having count(distinct m.identity) = 1
        )
        select array_agg(coalesce(i.identity, l.identity) order by a.nth)
        from asked a
        left join lateral (
            select m.identity from email_messages m
            where m.account_id = p_account_id and m.uid is null and m.identity = a.identity
                and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            limit 1
        ) i on true
        left join alike l
            on a.identity is null and l.received_at = a.received_at and l.size = a.size and l.copies >= a.copies;
end
$$;

reset role;
