-- The outbox: messages to be sent, and how far each is.
set local lock_timeout = '5s';
set local role email_service_owner;

-- Its moves are in shared/src/outbox.rs.
create table email_outbox (
    id                   uuid     primary key,
    tenant_id            uuid     not null,
    user_id              uuid     not null,
    account_id           uuid     not null,
    status               text     not null constraint email_outbox_status_check check (
        status in ('scheduled', 'queued', 'sending', 'sent', 'rejected', 'failed', 'uncertain', 'canceled')
    ),
    created_at           bigint   not null,
    -- When it was asked to be sent; null for at once.
    send_at              bigint,
    -- What each attempt's header says alike.
    dated_at             bigint   not null,
    message_id           text     not null,
    sender_name          text     not null,
    sender_address       text     not null,
    -- What was asked for, as JSON.
    content              text     not null,
    -- JSON: address, status and response of each, in the order in which they are asked for.
    recipients           text     not null,
    -- The files that go along, in their order.
    uploads              uuid[]   not null default '{}',
    -- What it answers or forwards, the Message-ID of that, and those that it refers to, the oldest first.
    reply_to_id          uuid,
    forward_of_id        uuid,
    original_id          text,
    original_references  text[]   not null default '{}',
    attempts             integer  not null default 0,
    -- When the first of those attempts began that are to end within a day.
    tried_since          bigint,
    next_attempt_at      bigint,
    response             text,
    sent_at              bigint,
    -- The sender's copy: none is needed, it is to be made, it is there, or it could not be made.
    copy                 text     not null default 'none' constraint email_outbox_copy_check check (
        copy in ('none', 'due', 'done', 'abandoned')
    ),
    -- How often the sent folder was looked at, for the copy or for what nobody knows.
    looks                smallint not null default 0,
    -- When a worker has something to do here, null for never; and when one is to be rung, for this is rung for once.
    due_at               bigint,
    ring_at              bigint,
    leased_until         bigint,
    -- Grows with each lease, and with each decision of the user's: who holds an older one writes nothing any more.
    lease_token          bigint   not null default 0,
    -- When the last dot was about to be sent, of an attempt whose end is not known; and the places of the recipients that
    -- it was for.
    dot_at               bigint,
    doubtful             integer[] not null default '{}',
    created_number       bigint   not null default 0,
    changed_number       bigint   not null default 0
);
comment on table email_outbox is 'Messages to be sent, and what became of them. Times are milliseconds since the Unix epoch.';

create index email_outbox_user_idx on email_outbox (user_id, created_at, id);
create index email_outbox_account_idx on email_outbox (account_id, created_at);
create index email_outbox_work_idx on email_outbox (account_id, due_at) where due_at is not null;
create index email_outbox_due_idx on email_outbox (ring_at) where ring_at is not null;
create index email_outbox_changes_idx on email_outbox (user_id, changed_number);

alter table email_outbox enable row level security;
alter table email_outbox force row level security;
create policy email_outbox_scope on email_outbox using (
    tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
    and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
) with check (
    tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
    and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
);

create function number_outgoing() returns trigger
language plpgsql
as $$
begin
    new.changed_number := next_numbers(new.tenant_id, new.user_id, 1);
    if tg_op = 'INSERT' then
        new.created_number := new.changed_number;
    end if;
    return new;
end
$$;
create trigger email_outbox_insert before insert on email_outbox for each row execute function number_outgoing();
-- What a user sees of it that changes.
create trigger email_outbox_update before update on email_outbox for each row
when (
    (old.status, old.attempts, old.next_attempt_at, old.response, old.recipients, old.sent_at)
        is distinct from (new.status, new.attempts, new.next_attempt_at, new.response, new.recipients, new.sent_at)
)
execute function number_outgoing();

-- How many bytes so many have that are sent: in base64, and in lines.
create function encoded_size(p_size bigint) returns bigint
language sql immutable strict
return (p_size + 2) / 3 * 4 + (p_size + 56) / 57 * 2;

-- Puts a message into the outbox, once for each key; its draft is gone then. `outcome`: `created`; `unknown`, where `unknown`
-- has the fields that name nothing of the user's; `noServer`, for the account cannot send; `notPut`, for of the files `p_missing`
-- are not there; `tooLarge`: what is sent has more than `p_most_bytes`; or `limited`, where `wait` says for how many
-- milliseconds: in any hour an account sends at most `p_per_hour` messages, and a user with all accounts at most
-- `p_user_per_hour`, null for any number. `claim` as in claim_key; of what was made before there is the entry as it was then.
create function insert_outgoing(
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
    unknown := unknown_references(
        p_tenant_id, p_user_id, p_account_id, p_reply_to_id, p_forward_of_id, p_uploads, null
    );
    if p_draft_id is not null and not exists (
        select from email_drafts d where d.id = p_draft_id and d.tenant_id = p_tenant_id and d.user_id = p_user_id
    ) then
        unknown := unknown || 'draftId'::text;
    end if;
    if cardinality(unknown) > 0 then
        outcome := 'unknown';
    elsif p_most_bytes < octet_length(p_content) + (
        select coalesce(sum(encoded_size(u.size)), 0)
        from unnest(p_uploads) as asked (id)
        join email_uploads u on u.id = asked.id and u.tenant_id = p_tenant_id and u.user_id = p_user_id
    ) then
        outcome := 'tooLarge';
    else
        -- Of each limit the one that must be an hour old before the next may come.
        select max(counted.created_at) into v_oldest from (
            (
                select o.created_at from email_outbox o
                where p_per_hour is not null and o.account_id = p_account_id and o.tenant_id = p_tenant_id
                    and o.user_id = p_user_id and o.created_at > v_now - 3600000
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
    select * into v_account from email_accounts a
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
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
        p_send_at, v_due, p_id || '@' || regexp_replace(v_account.address_key, '^.*@', ''), v_account.account_name,
        v_account.email_address, p_content, p_recipients, p_uploads, p_reply_to_id, p_forward_of_id, v_original.message_id,
        coalesce(v_original.reference_ids, array_remove(array[v_original.in_reply_to], null)), v_due, v_due,
        -- Whoever puts it here rings. That bell may be lost.
        case when v_due > v_now then v_due else v_now + 60000 end
    )
    returning o.* into entry;
    perform use_uploads(p_tenant_id, p_user_id, p_id, p_uploads);
    if p_draft_id is not null then
        perform delete_draft(p_tenant_id, p_user_id, p_draft_id);
    end if;
    perform keep_answer(p_tenant_id, p_user_id, p_key_hash, outcome, jsonb_build_object(
        'id', p_id, 'status', (entry).status, 'attempts', 0, 'next_attempt_at', v_due, 'response', null,
        'recipients', p_recipients, 'sent_at', null
    ));
    return next;
end
$$;

-- A page of the outbox, newest first, after the place `p_cursor_at`, `p_cursor_id`: of at most `p_limit` entries, and of those
-- only so many as have `p_bytes` together, but one. `is_last`: there is none after it.
create function list_outgoing(
    p_tenant_id uuid, p_user_id uuid, p_limit bigint, p_bytes bigint, p_cursor_at bigint, p_cursor_id uuid
)
returns table (entry email_outbox, is_last boolean)
language plpgsql rows 50
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select page.entry, page.place = page.count
        from (
            select o.entry, row_number() over w as place, count(*) over () as count,
                sum(octet_length((o.entry).content) + octet_length((o.entry).recipients)) over w as bytes
            from (
                select o as entry from email_outbox o
                join email_accounts a on a.id = o.account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                where o.tenant_id = p_tenant_id and o.user_id = p_user_id
                    and (p_cursor_id is null or (o.created_at, o.id) < (p_cursor_at, p_cursor_id))
                order by o.created_at desc, o.id desc
                limit p_limit + 1
            ) o
            window w as (order by (o.entry).created_at desc, (o.entry).id desc)
        ) page
        where page.place <= p_limit and (page.bytes <= p_bytes or page.place = 1)
        order by page.place;
end
$$;

create function find_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns setof email_outbox
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select o.* from email_outbox o
        join email_accounts a on a.id = o.account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id;
end
$$;

-- Takes a message back that is not on its way; `is_done` says whether it was so, and the row is as it is then.
create function cancel_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (is_done boolean, entry email_outbox)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
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
    elsif (entry).due_at is null then
        perform use_uploads(p_tenant_id, p_user_id, p_id, '{}');
    end if;
    return next;
end
$$;

-- Tries a message again that has failed or of which nobody knows, because its user wants it; as `cancel_outgoing`.
create function retry_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid)
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
        leased_until = null, lease_token = o.lease_token + 1, dot_at = null, doubtful = '{}', looks = 0
    from email_accounts a
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.status in ('failed', 'uncertain')
        and a.id = o.account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    returning o.* into entry;
    is_done := found;
    if not found then
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
-- after it may have. No row where nothing is due.
create function claim_outgoing(p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_lease bigint)
returns table (
    task text, entry email_outbox, account email_accounts, sealed_password bytea, sealed_smtp_password bytea,
    answered_folder bytea, answered_validity bigint, answered_uid bigint, upload_names text[], upload_types text[],
    upload_sizes bigint[]
)
language plpgsql rows 1
as $$
declare
    c_day constant bigint := 24 * 60 * 60 * 1000;
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select * into account from email_accounts a
    where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    if not found then
        return;
    end if;
    loop
        select * into entry from email_outbox o
        where o.account_id = p_account_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.due_at <= v_now
        order by o.due_at
        limit 1
        for update skip locked;
        exit when not found;
        if (entry).status = 'sending' and (entry).dot_at is not null then
            update email_outbox o
            set status = 'uncertain', looks = 0,
                response = 'The service was interrupted while the mail server took the message.'
            where o.id = (entry).id and o.tenant_id = p_tenant_id and o.user_id = p_user_id
            returning o.* into entry;
        elsif (entry).status = 'sending' and (entry).tried_since < v_now - c_day then
            -- Each attempt has cost its worker's life.
            update email_outbox o
            set status = 'failed', next_attempt_at = null, due_at = null, ring_at = null, leased_until = null,
                lease_token = o.lease_token + 1, response = 'The service could not send this message.'
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

-- Notes that the last dot is about to be sent, for the recipients with these places. False where the lease is lost, or the
-- account is gone: then it must not be sent.
create function commit_outgoing(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_token bigint, p_doubtful integer[])
returns boolean
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_outbox o set dot_at = epoch_ms(), doubtful = p_doubtful
    from email_accounts a
    where o.id = p_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.lease_token = p_token
        and o.status = 'sending' and o.leased_until > epoch_ms()
        and a.id = o.account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    return found;
end
$$;

-- Gives a message back, with what came of it. `p_pause`: milliseconds until something is to be done again, null for never.
-- `p_hold`: so long the account's others are not tried either. `p_is_untried`: this was no attempt. Nothing is noted where
-- the lease is lost. `is_more`: the account has something to send next, so that no worker has to ask in vain.
create function finish_outgoing(
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
    update email_outbox o
    set status = p_status, recipients = p_recipients, doubtful = p_doubtful, response = p_response, copy = p_copy,
        looks = p_looks, dot_at = case when p_status = 'uncertain' then o.dot_at end,
        sent_at = case when p_status = 'sent' then coalesce(o.sent_at, v_now) end,
        next_attempt_at = case when p_status = 'queued' then v_now + p_pause end,
        due_at = v_now + p_pause, ring_at = v_now + p_pause, leased_until = null,
        attempts = o.attempts - p_is_untried::integer,
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
        -- Not those that others are just changing: they wait for the number that this one has by now.
        update email_outbox o
        set next_attempt_at = v_now + p_hold, due_at = v_now + p_hold, ring_at = v_now + p_hold
        where o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.id in (
            select w.id from email_outbox w
            where w.account_id = v_account_id and w.tenant_id = p_tenant_id and w.user_id = p_user_id
                and w.status = 'queued' and w.due_at < v_now + p_hold
            for no key update skip locked
        );
    end if;
    is_more := exists (
        select from email_outbox o
        where o.account_id = v_account_id and o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.due_at <= epoch_ms()
    );
    return next;
end
$$;

grant select, insert on email_outbox to email_service_app;
grant update (
    status, tried_since, next_attempt_at, due_at, ring_at, leased_until, lease_token, dot_at, doubtful, looks, changed_number
) on email_outbox to email_service_app;
grant select on email_outbox to email_service_mail;
grant update (
    status, recipients, attempts, tried_since, next_attempt_at, response, sent_at, copy, looks, due_at, ring_at,
    leased_until, lease_token, dot_at, doubtful, changed_number
) on email_outbox to email_service_mail;

-- Whose turn it is, of all tenants.
grant select (id, tenant_id, user_id, account_id, ring_at), update (ring_at) on email_outbox to email_service_clock;
create policy email_outbox_clock on email_outbox to email_service_clock using (true) with check (true);

-- Takes note that somebody is rung for at most `p_limit` messages that are due, of all tenants, and returns whose they are.
-- Where nobody comes, they are rung for again after `p_again` milliseconds.
create function claim_due_outgoing(p_limit integer, p_again bigint)
returns table (tenant_id uuid, user_id uuid, account_id uuid, due_at bigint)
language plpgsql security definer
set search_path = ''
as $$
declare
    v_now constant bigint := public.epoch_ms();
    v_ids uuid[];
    v_due bigint[];
begin
    -- In two statements, as claim_due.
    select array_agg(d.id), array_agg(d.ring_at) into v_ids, v_due
    from (
        select o.id, o.ring_at from public.email_outbox o
        where o.ring_at is not null and o.ring_at <= v_now
        order by o.ring_at
        limit p_limit
        for no key update skip locked
    ) d;
    return query
        update public.email_outbox o set ring_at = v_now + p_again
        from unnest(v_ids, v_due) as d (id, ring_at) where o.id = d.id
        returning o.tenant_id, o.user_id, o.account_id, d.ring_at;
end
$$;

-- What a deleted account had to send goes with its mail: whoever notes that all of that is gone takes this along, and where
-- it is too much at once, it is not gone yet.
grant select (id, account_id, uploads), delete on email_outbox to email_service_janitor;
create policy email_outbox_janitor on email_outbox to email_service_janitor using (true);
grant select (used_by), update (used_by, unused_since) on email_uploads to email_service_janitor;
create function purge_outgoing() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    with gone as (
        delete from public.email_outbox o
        where o.id in (select p.id from public.email_outbox p where p.account_id = new.id limit 5000)
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
create trigger email_accounts_purge before update of mail_purged_at on email_accounts for each row
when (old.mail_purged_at is null and new.mail_purged_at is not null)
execute function purge_outgoing();

-- What a user's things have become since `p_since`, in the order of their numbers, `p_limit` of them at most: each thing
-- once, with its last change. `created` is what got its first number after `p_known`. The first row has `last`, the number
-- of the user's last change, and `forgotten`; where there is nothing to tell, that is all it has. So it is where `p_since`
-- is null, below `forgotten`, or a number that was never given.
--
-- One statement, so one snapshot: whoever gave a number had committed before the next one was given, so that up to `last`
-- nothing is missing. Each kind of thing is read by its index no further than the page, and nothing is sorted.
create function list_changes(p_tenant_id uuid, p_user_id uuid, p_since bigint, p_known bigint, p_limit bigint)
returns table (last bigint, forgotten bigint, number bigint, type text, id uuid, account_id uuid, change text)
language plpgsql rows 50
set enable_sort = off
set enable_incremental_sort = off
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        with counter as materialized (
            select coalesce(max(c.last), 0) as last, coalesce(max(c.forgotten), 0) as forgotten
            from email_change_numbers c
            where c.tenant_id = p_tenant_id and c.user_id = p_user_id
        )
        select counter.last, counter.forgotten, found.number, found.type, found.id, found.account_id,
            case when found.created_number is null then 'destroyed' when found.created_number > p_known then 'created'
                else 'updated' end
        from counter
        left join lateral (
            -- Another type of things is another branch here, in its own order, with an index on user_id, changed_number.
            (
                select a.changed_number as number, 'account' as type, a.id, a.id as account_id, a.created_number
                from email_accounts a
                where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.changed_number > p_since and a.is_enabled
                order by a.changed_number
                limit p_limit
            )
            union all
            (
                select f.changed_number, 'folder', f.id, f.account_id, f.created_number
                from email_folders f
                where f.tenant_id = p_tenant_id and f.user_id = p_user_id and f.changed_number > p_since
                    and f.account_id = any (array(
                        select a.id from email_accounts a
                        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                    ))
                order by f.changed_number
                limit p_limit
            )
            union all
            (
                select m.changed_number, 'message', m.id, m.account_id, m.created_number
                from email_messages m
                where m.tenant_id = p_tenant_id and m.user_id = p_user_id and m.changed_number > p_since
                    -- Mail of a deleted account is here until it is purged.
                    and m.account_id = any (array(
                        select a.id from email_accounts a
                        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                    ))
                order by m.changed_number
                limit p_limit
            )
            union all
            (
                select o.changed_number, 'outbox', o.id, o.account_id, o.created_number
                from email_outbox o
                where o.tenant_id = p_tenant_id and o.user_id = p_user_id and o.changed_number > p_since
                    and o.account_id = any (array(
                        select a.id from email_accounts a
                        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                    ))
                order by o.changed_number
                limit p_limit
            )
            union all
            (
                select d.number, d.type, d.id, d.account_id, null
                from email_destroyed d
                where d.tenant_id = p_tenant_id and d.user_id = p_user_id and d.number > p_since
                order by d.number
                limit p_limit
            )
            order by number
            limit p_limit
        ) found on p_since between counter.forgotten and counter.last
        order by found.number;
end
$$;

reset role;
-- As in V2 and V5.
grant email_service_clock to current_user;
grant create on schema public to email_service_clock;
alter function claim_due_outgoing(integer, bigint) owner to email_service_clock;
revoke execute on function claim_due_outgoing(integer, bigint) from public;
grant execute on function claim_due_outgoing(integer, bigint) to email_service_scheduler;
revoke create on schema public from email_service_clock;
revoke email_service_clock from current_user;
