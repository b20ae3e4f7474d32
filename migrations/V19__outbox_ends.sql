-- The outbox: a provider's limit holds what is put there later as well; one worker's death is not the message's; and files end
-- where their message does.
set local lock_timeout = '5s';
set local role email_service_owner;

-- How many workers have died with it before the last dot, one after the other.
alter table email_outbox add column deaths smallint not null default 0;
grant update (deaths) on email_outbox to email_service_app, email_service_mail;
-- Until when the provider takes nothing more, by what it said last; null where it said nothing.
alter table email_accounts add column sending_held_until bigint;
grant update (sending_held_until) on email_accounts to email_service_mail;

-- As in V7. Another login, or another server, is another limit.
create or replace function take_lease_back() returns trigger
language plpgsql
as $$
begin
    new.lease_token := old.lease_token + 1;
    new.leased_until := null;
    new.rung_at := null;
    new.sync_requested_at := null;
    new.sync_started_at := null;
    new.sending_held_until := null;
    return new;
end
$$;

-- As in V16; files that were let go are taken back, as long as they are there.
create or replace function retry_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (is_done boolean, entry email_outbox)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_outbox o
    set status = 'queued', tried_since = null, next_attempt_at = v_now, due_at = v_now, ring_at = v_now + 60000,
        -- Who looks for it in the sent folder finds another attempt's by now.
        leased_until = null, lease_token = o.lease_token + 1, dot_at = null, doubtful = '{}', looks = 0,
        deaths = 0
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
            order by u.id
            for no key update
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

-- Takes what an account has to send next, for a worker, until `p_lease` milliseconds from now. `task`: `send`; `look`, for
-- what became of it is not known; `copy`, for the sender's. A worker that died before the last dot has sent nothing; one that died
-- after it may have. Where three died before it, one after the other, of a message that has been tried for more than a day, it is what
-- they die of. No row where nothing is due, or where all that is due waits for the provider's limit; that holds nobody up who takes
-- over what a dead worker has left.
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

-- Gives a message back, with what came of it. `p_pause`: milliseconds until something is to be done again, null for never.
-- `p_hold`: so long the account sends nothing. `p_is_untried`: this was no attempt. Nothing is noted where
-- the lease is lost. `is_more`: the account has something to send next, so that no worker has to ask in vain.
create or replace function finish_outgoing(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_token bigint, p_status text, p_recipients text, p_doubtful integer[],
    p_response text, p_copy text, p_looks integer, p_pause bigint, p_hold bigint, p_is_untried boolean
)
returns table (is_noted boolean, is_more boolean)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_account_id uuid;
    v_reply_to_id uuid;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    if p_hold is not null then
        -- Whoever locks an account does so before what belongs to it.
        perform from email_accounts a
        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled and a.id = (
            select o.account_id from email_outbox o
            where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id
        )
        for no key update;
    end if;
    update email_outbox o
    set status = p_status, recipients = p_recipients, doubtful = p_doubtful, response = p_response, copy = p_copy,
        looks = p_looks, dot_at = case when p_status = 'uncertain' then o.dot_at end,
        sent_at = case when p_status = 'sent' then coalesce(o.sent_at, v_now) end,
        next_attempt_at = case when p_status = 'queued' then v_now + p_pause end,
        due_at = v_now + p_pause, ring_at = v_now + p_pause, leased_until = null,
        attempts = o.attempts - p_is_untried::integer, deaths = case when p_is_untried then o.deaths else 0 end,
        tried_since = case when p_is_untried and o.attempts = 1 then null else o.tried_since end
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.lease_token = p_token
    returning o.account_id, o.reply_to_id into v_account_id, v_reply_to_id;
    is_noted := found;
    if not found then
        is_more := true; -- Perhaps; who asks sees.
        return next;
        return;
    end if;
    if p_pause is null and p_status in ('sent', 'rejected', 'canceled') then
        -- Its files are needed no more.
        perform use_uploads(p_tenant_id, p_user_id, p_id, '{}');
    end if;
    if p_status = 'sent' and exists (
        select from email_messages m join email_accounts a on a.id = m.account_id
        where m.id = v_reply_to_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id and not m.is_answered
            and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.protocol = 'pop3'
    ) then
        -- Where a server keeps flags, the worker asks it.
        update email_messages m set is_answered = true, changed_number = next_numbers(p_tenant_id, p_user_id, 1)
        where m.id = v_reply_to_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    end if;
    if p_hold is not null then
        update email_accounts a set sending_held_until = v_now + p_hold
        where a.id = v_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    end if;
    is_more := exists (
        select from email_outbox o
        where o.account_id = v_account_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.due_at <= epoch_ms()
    );
    return next;
end
$$;

-- How long a message keeps its files that nobody tries any more but its user, in milliseconds, from when it was tried first.
create function untried_files_last() returns bigint
language sql immutable
return 30::bigint * 24 * 60 * 60 * 1000;

-- Lets the files go of at most `p_limit` messages that nobody has tried again for so long, of all tenants, and returns how many
-- messages these are. A file that nothing else uses can be used for another day, by who tries its message again as well.
create function release_files(p_limit integer) returns integer
language plpgsql security definer
set search_path = ''
as $$
declare
    v_ids uuid[];
    v_uploads uuid[];
begin
    with untried as (
        -- So it is not found again. Who tries it again gives it a new time.
        update public.email_outbox o set tried_since = null
        where o.id in (
            select p.id from public.email_outbox p
            where p.status in ('failed', 'uncertain') and p.due_at is null and cardinality(p.uploads) > 0
                and p.tried_since <= (select public.epoch_ms() - public.untried_files_last())
            order by p.tried_since
            limit p_limit
            for no key update skip locked
        )
        returning o.id, o.uploads
    )
    select array_agg(distinct untried.id), array_agg(distinct upload) into v_ids, v_uploads
    from untried, unnest(untried.uploads) as upload;
    -- In the order in which users lock them.
    perform from public.email_uploads u where u.id = any (v_uploads) order by u.id for no key update;
    update public.email_uploads u
    set used_by = array(select b from unnest(u.used_by) as b where b <> all (v_ids)),
        unused_since = case when u.used_by <@ v_ids then public.epoch_ms() end
    where u.id = any (v_uploads) and u.used_by && v_ids;
    return coalesce(cardinality(v_ids), 0);
end
$$;

grant select (status, due_at, tried_since), update (tried_since) on email_outbox to email_service_janitor;

reset role;
-- As in V2 and V5.
grant email_service_janitor to current_user;
grant create on schema public to email_service_janitor;
alter function release_files(integer) owner to email_service_janitor;
revoke execute on function release_files(integer) from public;
grant execute on function release_files(integer) to email_service_scheduler;
revoke create on schema public from email_service_janitor;
revoke email_service_janitor from current_user;
