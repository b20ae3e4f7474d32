-- What was sent is counted for its hour, whatever becomes of the account that sent it.
set local lock_timeout = '5s';

-- Whoever rotates its password logs in as it. What it may not write it has no privilege for.
alter role email_service_reader reset default_transaction_read_only;

set local role email_service_owner;

-- As in V16, but that an account that is made again goes on with the limit of the one before, that a draft is locked before its
-- files, as by whoever changes it, and that a Message-ID has no space.
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
        select max(counted.created_at) into v_oldest from (
            (
                select o.created_at from email_outbox o
                where p_per_hour is not null and o.tenant_id = p_tenant_id and o.user_id = p_user_id
                    and o.account_id = any (v_alike) and o.created_at > v_now - 3600000
                order by o.created_at desc
                offset p_per_hour - 1 limit 1
            )
            union all
            (
                select o.created_at from email_outbox o
                where p_user_per_hour is not null and o.tenant_id = p_tenant_id and o.user_id = p_user_id
                    and o.created_at > v_now - 3600000
                order by o.created_at desc
                offset p_user_per_hour - 1 limit 1
            )
        ) counted;
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

-- As in V16, but that what is younger than an hour stays so long: limits count it.
grant select (created_at) on email_outbox to email_service_janitor;
create or replace function purge_outgoing() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    with gone as (
        delete from public.email_outbox o
        where o.id in (
            select p.id from public.email_outbox p
            where p.account_id = new.id and p.created_at < public.epoch_ms() - 3600000
            limit 5000
        )
        returning o.id, o.uploads
    ),
    used as (
        select upload as id, array_agg(gone.id) as by from gone, unnest(gone.uploads) as upload group by upload
    )
    update public.email_uploads u
    set used_by = array(select b from unnest(u.used_by) as b where b <> all (used.by)),
        unused_since = case when u.used_by <@ used.by then public.epoch_ms() end
    from used where u.id = used.id;
    if exists (select from public.email_outbox o where o.account_id = new.id) then
        new.mail_purged_at := null;
    end if;
    return new;
end
$$;

-- In the order of their ids, as all do who lock several; and before numbers of changes are given, which everybody waits for.
create function lock_uploads(p_tenant_id uuid, p_user_id uuid, p_uploads uuid[]) returns void
language plpgsql
as $$
begin
    if cardinality(p_uploads) > 0 then
        perform from email_uploads u
        where u.id = any (p_uploads) and u.tenant_id = p_tenant_id and u.user_id = p_user_id
        order by u.id
        for no key update;
    end if;
end
$$;

-- As in V15, but for the order.
create or replace function use_uploads(p_tenant_id uuid, p_user_id uuid, p_by uuid, p_uploads uuid[]) returns void
language plpgsql
as $$
begin
    perform from email_uploads u
    where u.tenant_id = p_tenant_id and u.user_id = p_user_id and (p_by = any (u.used_by) or u.id = any (p_uploads))
    order by u.id
    for no key update;
    update email_uploads u
    set used_by = array_remove(u.used_by, p_by),
        unused_since = case when u.used_by <@ array[p_by] then epoch_ms() end
    where u.tenant_id = p_tenant_id and u.user_id = p_user_id and p_by = any (u.used_by) and not u.id = any (p_uploads);
    update email_uploads u set used_by = u.used_by || p_by, unused_since = null
    where u.id = any (p_uploads) and u.tenant_id = p_tenant_id and u.user_id = p_user_id and not p_by = any (u.used_by);
end
$$;

-- As in V23, V16 and V22, but that files, and the message that is answered, are locked before; and that nothing is looked for that
-- is not there.
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
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select o.account_id, o.reply_to_id, o.uploads into v_account_id, v_reply_to_id, v_uploads from email_outbox o
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id;
    if p_hold is not null then
        -- Whoever locks an account does so before what belongs to it.
        perform from email_accounts a
        where a.id = v_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        for no key update;
    end if;
    if v_is_over then
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
create or replace function cancel_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (is_done boolean, entry email_outbox)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    perform lock_uploads(p_tenant_id, p_user_id, array(
        select unnest(o.uploads) from email_outbox o
        where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id
    ));
    update email_outbox o
    set status = 'canceled', next_attempt_at = null, lease_token = o.lease_token + 1,
        -- Of what some have got already the sender keeps a copy.
        due_at = case when o.copy = 'due' then v_now end, ring_at = case when o.copy = 'due' then v_now end
    from email_accounts a
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.status in ('scheduled', 'queued')
        and a.id = o.account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    returning o.* into entry;
    is_done := found;
    if not found then
        entry := find_outgoing(p_tenant_id, p_user_id, p_id);
        if (entry).id is null then
            return;
        end if;
    elsif (entry).due_at is null and cardinality((entry).uploads) > 0 then
        perform use_uploads(p_tenant_id, p_user_id, p_id, '{}');
    end if;
    return next;
end
$$;
create or replace function retry_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (is_done boolean, entry email_outbox)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    perform lock_uploads(p_tenant_id, p_user_id, array(
        select unnest(o.uploads) from email_outbox o
        where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id
    ));
    update email_outbox o
    set status = 'queued', tried_since = null, next_attempt_at = v_now, due_at = v_now, ring_at = v_now + 60000,
        -- Who looks for it in the sent folder finds another attempt's by now.
        leased_until = null, lease_token = o.lease_token + 1, dot_at = null, doubtful = '{}', looks = 0,
        deaths = 0,
        doubted = case
            when o.status = 'uncertain' and o.doubted is not null
            then array(select unnest(o.doubted) intersect select unnest(o.doubtful))
            when o.status = 'uncertain' then o.doubtful
            else o.doubted
        end
    from email_accounts a
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.status in ('failed', 'uncertain')
        and a.id = o.account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    returning o.* into entry;
    is_done := found;
    if found and cardinality((entry).uploads) > 0 then
        perform use_uploads(p_tenant_id, p_user_id, p_id, array(
            select u.id from email_uploads u
            where u.id = any ((entry).uploads) and u.tenant_id = p_tenant_id and u.user_id = p_user_id
                and (u.unused_since is null or u.unused_since > v_now - unused_uploads_last())
        ));
    elsif not found then
        entry := find_outgoing(p_tenant_id, p_user_id, p_id);
        if (entry).id is null then
            return;
        end if;
    end if;
    return next;
end
$$;

-- As in V19, but that it counts who died of a look.
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
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select * into account from email_accounts a
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    if not found then
        return;
    end if;
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
        select c.sealed_password, c.sealed_smtp_password into sealed_password, sealed_smtp_password
        from email_credentials c
        where c.id = (account).credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
        -- What it answers, where that is in the same mailbox.
        select f.wire_name, f.uid_validity, m.uid into answered_folder, answered_validity, answered_uid
        from email_messages m join email_folders f on f.id = m.folder_id
        where m.id = (entry).reply_to_id and m.account_id = p_account_id and m.tenant_id = p_tenant_id
            and m.user_id = p_user_id and f.tenant_id = p_tenant_id and f.user_id = p_user_id;
        -- What goes along; null for what is gone.
        select array_agg(u.filename order by asked.place), array_agg(u.content_type order by asked.place),
            array_agg(u.size order by asked.place)
        into upload_names, upload_types, upload_sizes
        from unnest((entry).uploads) with ordinality as asked (id, place)
        left join email_uploads u on u.id = asked.id and u.tenant_id = p_tenant_id and u.user_id = p_user_id;
        return next;
        exit;
    end loop;
end
$$;

-- As in V10, but that of a password nothing stays.
create or replace function destroy_secrets(p_tenant_id uuid, p_user_id uuid, p_credential_id uuid) returns void
language sql volatile
as $$
    update email_credentials c
    set sealed_password = null, password_key = null, sealed_smtp_password = null, smtp_password_key = null,
        algorithm = null, password_hash = null, salt = null
    where c.id = p_credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    select destroy_tokens(p_tenant_id, p_user_id, p_credential_id)
$$;

reset role;
