-- What users write before it is sent: drafts and files; and requests that may come twice.
set local lock_timeout = '5s';
set local role email_service_owner;

-- What was answered to a request with an Idempotency-Key, for 24 hours. Neither the key nor the request is here:
-- shared/src/idempotency.rs.
create table email_idempotency_keys (
    tenant_id   uuid   not null,
    user_id     uuid   not null,
    -- Of the key and the endpoint.
    key_hash    bytea  not null constraint email_idempotency_keys_key_hash_check check (octet_length(key_hash) = 32),
    fingerprint bytea  not null constraint email_idempotency_keys_fingerprint_check check (octet_length(fingerprint) = 32),
    -- Null only until the transaction ends that does what was asked for.
    outcome     text,
    made        jsonb,
    created_at  bigint not null,
    primary key (tenant_id, user_id, key_hash)
);
comment on table email_idempotency_keys is 'What came of requests that had an Idempotency-Key, so that the same request gets the same answer again.';
comment on column email_idempotency_keys.fingerprint is 'A hash of the request''s body under the key: with another body the key cannot be used again.';
comment on column email_idempotency_keys.outcome is 'What came of it, in the words of the endpoint''s function.';
comment on column email_idempotency_keys.made is 'What the answer shows of it, as it was then.';
-- What is forgotten first.
create index email_idempotency_keys_age_idx on email_idempotency_keys (created_at);

-- Files that were announced, and perhaps put into the object store, to go along with what users write.
create table email_uploads (
    id           uuid         primary key,
    tenant_id    uuid         not null,
    user_id      uuid         not null,
    filename     varchar(255) not null,
    content_type varchar(255) not null,
    size         bigint       not null constraint email_uploads_size_check check (size between 0 and 26214400),
    created_at   bigint       not null,
    -- The drafts and messages that it goes along with.
    used_by      uuid[]       not null default '{}',
    -- Since when there are none, null while there are.
    unused_since bigint,
    constraint email_uploads_use_check check ((cardinality(used_by) = 0) = (unused_since is not null))
);
comment on table email_uploads is 'Files to be attached. One that nothing uses ends after a day.';
comment on column email_uploads.size is 'Bytes, as announced: the store takes no more and no less.';
create index email_uploads_user_idx on email_uploads (tenant_id, user_id);
-- What is purged first.
create index email_uploads_unused_idx on email_uploads (unused_since) where unused_since is not null;

create table email_drafts (
    id            uuid    primary key,
    tenant_id     uuid    not null,
    user_id       uuid    not null,
    -- Whatever these name may be gone.
    account_id    uuid,
    reply_to_id   uuid,
    forward_of_id uuid,
    -- JSON: shared/src/composition.rs.
    content       text    not null,
    version       integer not null default 1,
    created_at    bigint  not null,
    updated_at    bigint  not null
);
comment on table email_drafts is 'What users write and have not sent. Times are milliseconds since the Unix epoch.';
comment on column email_drafts.version is 'Grows with each change: who has an older one changes nothing.';
create index email_drafts_user_idx on email_drafts (tenant_id, user_id, id);

do $$
declare
    name text;
begin
    foreach name in array array['email_drafts', 'email_idempotency_keys', 'email_uploads'] loop
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
grant select, insert, delete on email_idempotency_keys to email_service_app;
grant update (fingerprint, outcome, made, created_at) on email_idempotency_keys to email_service_app;
grant select, insert on email_uploads to email_service_app;
grant update (used_by, unused_since) on email_uploads to email_service_app;
grant select, insert, delete on email_drafts to email_service_app;
grant update (account_id, reply_to_id, forward_of_id, content, version, updated_at) on email_drafts to email_service_app;
-- Who sends asks what goes along, and says when it has.
grant select, insert on email_uploads to email_service_mail;
grant update (used_by, unused_since) on email_uploads to email_service_mail;

-- How long an answer is kept, in milliseconds.
create function idempotency_keys_last() returns bigint
language sql immutable
return 24 * 60 * 60 * 1000;

-- Begins a statement that may have been sent before. `claim` is `new`: do it, and keep_answer in the same transaction, or
-- give_key_up where the client may correct the request; `kept`: it was done, and `outcome` and `made` say what came of it;
-- `other`: the key was used for another body; `running`: who was first with it has not ended within the role's lock_timeout.
-- Of two at once the second waits here: for the answer of the first, or for its turn should the first undo all. So this
-- comes before all other locks. Without a key everything is new. The transaction's scope must be set.
create function claim_key(
    p_tenant_id uuid, p_user_id uuid, p_key_hash bytea, p_fingerprint bytea,
    out claim text, out outcome text, out made jsonb
)
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
    v_key email_idempotency_keys;
begin
    claim := 'new';
    if p_key_hash is null then
        return;
    end if;
    begin
        insert into email_idempotency_keys as k (tenant_id, user_id, key_hash, fingerprint, created_at)
        values (p_tenant_id, p_user_id, p_key_hash, p_fingerprint, v_now)
        on conflict on constraint email_idempotency_keys_pkey do update
        set fingerprint = excluded.fingerprint, outcome = null, made = null, created_at = excluded.created_at
        where k.created_at <= v_now - idempotency_keys_last();
    exception when lock_not_available then
        claim := 'running';
        return;
    end;
    if found then
        return;
    end if;
    select * into v_key from email_idempotency_keys k
    where k.tenant_id = p_tenant_id and k.user_id = p_user_id and k.key_hash = p_key_hash;
    if v_key.fingerprint = p_fingerprint then
        claim := 'kept';
        outcome := v_key.outcome;
        made := v_key.made;
    else
        claim := 'other';
    end if;
end
$$;

-- Keeps what came of a request whose key is claimed, if it has one.
create function keep_answer(p_tenant_id uuid, p_user_id uuid, p_key_hash bytea, p_outcome text, p_made jsonb) returns void
language sql volatile
as $$
    update email_idempotency_keys k set outcome = p_outcome, made = p_made
    where k.tenant_id = p_tenant_id and k.user_id = p_user_id and k.key_hash = p_key_hash
$$;

-- Nothing was done, and another body may be sent under the key.
create function give_key_up(p_tenant_id uuid, p_user_id uuid, p_key_hash bytea) returns void
language sql volatile
as $$
    delete from email_idempotency_keys k
    where k.tenant_id = p_tenant_id and k.user_id = p_user_id and k.key_hash = p_key_hash
$$;

-- As insert_account, once for each key. `outcome` is `created`, `addressTaken` or `tooMany`; null where `claim` says why.
create function create_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid,
    p_account_name text, p_email_address text, p_address_key text, p_protocol text, p_hostname text, p_port integer,
    p_encryption text, p_username text, p_is_sync_enabled boolean, p_sync_interval integer,
    p_credential_id uuid, p_algorithm text, p_password_hash text, p_salt text, p_most_accounts integer,
    p_key text, p_sealed_password bytea, p_sealed_smtp_password bytea,
    p_smtp_hostname text, p_smtp_port integer, p_smtp_encryption text, p_smtp_username text,
    p_key_hash bytea, p_fingerprint bytea
)
returns table (account email_accounts, claim text, outcome text)
language plpgsql rows 1
as $$
declare
    v_claim record;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    v_claim := claim_key(p_tenant_id, p_user_id, p_key_hash, p_fingerprint);
    claim := v_claim.claim;
    outcome := v_claim.outcome;
    if claim <> 'new' then
        -- As it was then; a column that is newer than the answer is as it is now.
        select * into account from email_accounts a
        where a.id = (v_claim.made ->> 'id')::uuid and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
        account := jsonb_populate_record(account, v_claim.made);
        return next;
        return;
    end if;
    -- Under this lock no other account gets the address meanwhile. The unique index would undo the key as well.
    perform lock_addresses(p_tenant_id, p_user_id);
    if exists (
        select from email_accounts a
        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.address_key = p_address_key and a.is_enabled
    ) then
        outcome := 'addressTaken';
    else
        select * into account from insert_account(
            p_tenant_id, p_user_id, p_id, p_account_name, p_email_address, p_address_key, p_protocol, p_hostname, p_port,
            p_encryption, p_username, p_is_sync_enabled, p_sync_interval, p_credential_id, p_algorithm, p_password_hash,
            p_salt, p_most_accounts, p_key, p_sealed_password, p_sealed_smtp_password, p_smtp_hostname, p_smtp_port,
            p_smtp_encryption, p_smtp_username
        );
        outcome := case when found then 'created' else 'tooMany' end;
    end if;
    perform keep_answer(
        p_tenant_id, p_user_id, p_key_hash, outcome, case when outcome = 'created' then to_jsonb(account) end
    );
    return next;
end
$$;

-- How long an upload is there that nothing uses, in milliseconds. It can be used for that long; its object is deleted an
-- hour later.
create function unused_uploads_last() returns bigint
language sql immutable
return 24 * 60 * 60 * 1000;

-- Notes files that are to come; false where there would be too many: a user has at most `p_most` uploads, of at most
-- `p_most_bytes` bytes in all.
create function add_uploads(
    p_tenant_id uuid, p_user_id uuid, p_ids uuid[], p_filenames text[], p_content_types text[], p_sizes bigint[],
    p_most bigint, p_most_bytes bigint
)
returns boolean
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    -- Two at once would both find room for one.
    perform lock_addresses(p_tenant_id, p_user_id);
    insert into email_uploads (id, tenant_id, user_id, filename, content_type, size, created_at, unused_since)
    select new.id, p_tenant_id, p_user_id, new.filename, new.content_type, new.size, v_now, v_now
    from unnest(p_ids, p_filenames, p_content_types, p_sizes) as new (id, filename, content_type, size)
    where (
        select count(*) + cardinality(p_ids) <= p_most
            and coalesce(sum(u.size), 0) + (select sum(size) from unnest(p_sizes) as size) <= p_most_bytes
        from email_uploads u
        where u.tenant_id = p_tenant_id and u.user_id = p_user_id
    );
    return found;
end
$$;

-- Announces a file. `outcome` is `created` or `tooMany`, as add_uploads has it; `claim` as in claim_key.
create function create_upload(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_filename text, p_content_type text, p_size bigint, p_most bigint,
    p_most_bytes bigint, p_key_hash bytea, p_fingerprint bytea
)
returns table (claim text, outcome text, id uuid, created_at bigint)
language plpgsql rows 1
as $$
declare
    v_claim record;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    v_claim := claim_key(p_tenant_id, p_user_id, p_key_hash, p_fingerprint);
    claim := v_claim.claim;
    outcome := v_claim.outcome;
    id := (v_claim.made ->> 'id')::uuid;
    created_at := (v_claim.made ->> 'created_at')::bigint;
    if claim = 'new' then
        outcome := 'tooMany';
        if add_uploads(
            p_tenant_id, p_user_id, array[p_id], array[p_filename], array[p_content_type], array[p_size], p_most,
            p_most_bytes
        ) then
            outcome := 'created';
            id := p_id;
            -- The link's lifetime is counted from the row's moment; a second look at the clock would be a later one.
            created_at := (
                select u.created_at
                from email_uploads u
                where u.tenant_id = p_tenant_id and u.user_id = p_user_id and u.id = p_id
            );
        end if;
        perform keep_answer(
            p_tenant_id, p_user_id, p_key_hash, outcome,
            case when id is not null then jsonb_build_object('id', id, 'created_at', created_at) end
        );
    end if;
    return next;
end
$$;

-- The names of those fields that name nothing of the user's. `p_uploads` are the attachments', in their order. What is as
-- in the draft `p_known` may be gone. The rows of the uploads are locked, in the order of their ids. The transaction's scope
-- must be set; so it must for the next two.
create function unknown_references(
    p_tenant_id uuid, p_user_id uuid, p_account_id uuid, p_reply_to_id uuid, p_forward_of_id uuid, p_uploads uuid[],
    p_known email_drafts
)
returns text[]
language plpgsql
as $$
declare
    v_unknown text[] := '{}';
begin
    if p_account_id is distinct from p_known.account_id and not exists (
        select from email_accounts a
        where a.id = p_account_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    ) and p_account_id is not null then
        v_unknown := v_unknown || 'accountId'::text;
    end if;
    if p_reply_to_id is distinct from p_known.reply_to_id and p_reply_to_id is not null
        and not has_message(p_tenant_id, p_user_id, p_reply_to_id)
    then
        v_unknown := v_unknown || 'replyToId'::text;
    end if;
    if p_forward_of_id is distinct from p_known.forward_of_id and p_forward_of_id is not null
        and not has_message(p_tenant_id, p_user_id, p_forward_of_id)
    then
        v_unknown := v_unknown || 'forwardOfId'::text;
    end if;
    if cardinality(p_uploads) > 0 then
        perform from email_uploads u
        where u.id = any (p_uploads) and u.tenant_id = p_tenant_id and u.user_id = p_user_id
        order by u.id
        for no key update;
        v_unknown := v_unknown || array(
            select format('attachments[%s].uploadId', asked.place - 1)
            from unnest(p_uploads) with ordinality as asked (id, place)
            where not exists (
                select from email_uploads u
                where u.id = asked.id and u.tenant_id = p_tenant_id and u.user_id = p_user_id
                    and (u.unused_since is null or u.unused_since > epoch_ms() - unused_uploads_last())
            )
            order by asked.place
        );
    end if;
    return v_unknown;
end
$$;

-- Whether it is a message of the user's, in an account that is there.
create function has_message(p_tenant_id uuid, p_user_id uuid, p_id uuid) returns boolean
language sql stable
as $$
    select exists (
        select from email_messages m join email_accounts a on a.id = m.account_id
        where m.id = p_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    )
$$;

-- Says that exactly these of the user's uploads go along with `p_by`, a draft or a message.
create function use_uploads(p_tenant_id uuid, p_user_id uuid, p_by uuid, p_uploads uuid[]) returns void
language plpgsql
as $$
begin
    update email_uploads u
    set used_by = array_remove(u.used_by, p_by),
        unused_since = case when u.used_by <@ array[p_by] then epoch_ms() end
    where u.tenant_id = p_tenant_id and u.user_id = p_user_id and p_by = any (u.used_by) and not u.id = any (p_uploads);
    update email_uploads u set used_by = u.used_by || p_by, unused_since = null
    where u.id = any (p_uploads) and u.tenant_id = p_tenant_id and u.user_id = p_user_id and not p_by = any (u.used_by);
end
$$;

-- The draft as it can be put back: without what is gone of that which it names.
create function shown_draft(p_draft email_drafts) returns email_drafts
language plpgsql stable
as $$
begin
    if not exists (
        select from email_accounts a
        where a.id = p_draft.account_id and a.tenant_id = p_draft.tenant_id and a.user_id = p_draft.user_id and a.is_enabled
    ) then
        p_draft.account_id := null;
    end if;
    if not has_message(p_draft.tenant_id, p_draft.user_id, p_draft.reply_to_id) then
        p_draft.reply_to_id := null;
    end if;
    if not has_message(p_draft.tenant_id, p_draft.user_id, p_draft.forward_of_id) then
        p_draft.forward_of_id := null;
    end if;
    return p_draft;
end
$$;

-- Stores a draft. `outcome` is `created`; `tooMany`: a user has at most `p_most`; or `unknown`, where `unknown` has the
-- fields. `claim` as in claim_key: of what was made before there is the id and when; the content is the request's.
create function create_draft(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_account_id uuid, p_reply_to_id uuid, p_forward_of_id uuid,
    p_uploads uuid[], p_content text, p_most bigint, p_key_hash bytea, p_fingerprint bytea
)
returns table (claim text, outcome text, unknown text[], id uuid, created_at bigint)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_claim record;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    v_claim := claim_key(p_tenant_id, p_user_id, p_key_hash, p_fingerprint);
    claim := v_claim.claim;
    outcome := v_claim.outcome;
    id := (v_claim.made ->> 'id')::uuid;
    created_at := (v_claim.made ->> 'created_at')::bigint;
    if claim <> 'new' then
        return next;
        return;
    end if;
    unknown := unknown_references(
        p_tenant_id, p_user_id, p_account_id, p_reply_to_id, p_forward_of_id, p_uploads, null
    );
    if cardinality(unknown) > 0 then
        outcome := 'unknown';
        perform give_key_up(p_tenant_id, p_user_id, p_key_hash);
        return next;
        return;
    end if;
    if p_most <= (select count(*) from email_drafts d where d.tenant_id = p_tenant_id and d.user_id = p_user_id) then
        outcome := 'tooMany';
    else
        outcome := 'created';
        id := p_id;
        created_at := v_now;
        insert into email_drafts (
            id, tenant_id, user_id, account_id, reply_to_id, forward_of_id, content, created_at, updated_at
        )
        values (
            p_id, p_tenant_id, p_user_id, p_account_id, p_reply_to_id, p_forward_of_id, p_content, v_now, v_now
        );
        perform use_uploads(p_tenant_id, p_user_id, p_id, p_uploads);
    end if;
    perform keep_answer(
        p_tenant_id, p_user_id, p_key_hash, outcome,
        case when id is not null then jsonb_build_object('id', id, 'created_at', created_at) end
    );
    return next;
end
$$;

-- A page of drafts, newest first, after `p_cursor`: of at most `p_limit`, and of those only so many as have `p_bytes`
-- together, but one. `is_last`: there is none after it.
create function list_drafts(p_tenant_id uuid, p_user_id uuid, p_limit bigint, p_bytes bigint, p_cursor uuid)
returns table (draft email_drafts, is_last boolean)
language plpgsql rows 50
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select shown_draft(page.draft), page.place = page.count
        from (
            select d.draft, row_number() over w as place, count(*) over () as count, sum(d.length) over w as bytes
            from (
                select d as draft, d.id, octet_length(d.content) as length from email_drafts d
                where d.tenant_id = p_tenant_id and d.user_id = p_user_id and (p_cursor is null or d.id < p_cursor)
                order by d.id desc
                limit p_limit + 1
            ) d
            window w as (order by d.id desc)
        ) page
        where page.place <= p_limit and (page.bytes <= p_bytes or page.place = 1)
        order by page.place;
end
$$;

create function find_draft(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns setof email_drafts
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select shown.* from email_drafts d cross join lateral shown_draft(d) shown
        where d.id = p_id and d.tenant_id = p_tenant_id and d.user_id = p_user_id;
end
$$;

-- Puts another content into a draft. `outcome` is `updated`; `stale`, where the draft has another version, which is in the
-- row; or `unknown`, as in create_draft. No row where there is no draft.
create function update_draft(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_version integer, p_account_id uuid, p_reply_to_id uuid,
    p_forward_of_id uuid, p_uploads uuid[], p_content text
)
returns table (outcome text, unknown text[], draft email_drafts)
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select * into draft from email_drafts d
    where d.id = p_id and d.tenant_id = p_tenant_id and d.user_id = p_user_id
    for no key update;
    if not found then
        return;
    end if;
    if (draft).version <> p_version then
        outcome := 'stale';
        return next;
        return;
    end if;
    unknown := unknown_references(
        p_tenant_id, p_user_id, p_account_id, p_reply_to_id, p_forward_of_id, p_uploads, draft
    );
    if cardinality(unknown) > 0 then
        outcome := 'unknown';
        return next;
        return;
    end if;
    outcome := 'updated';
    perform use_uploads(p_tenant_id, p_user_id, p_id, p_uploads);
    update email_drafts d
    set account_id = p_account_id, reply_to_id = p_reply_to_id, forward_of_id = p_forward_of_id, content = p_content,
        version = d.version + 1, updated_at = greatest(epoch_ms(), d.updated_at + 1)
    where d.id = p_id and d.tenant_id = p_tenant_id and d.user_id = p_user_id
    returning d.* into draft;
    draft := shown_draft(draft);
    return next;
end
$$;

-- Forgets a draft; says whether there was one. Also what a statement does with a draft that becomes a message, after
-- use_uploads for the message: of two that send one draft, one finds it.
create function delete_draft(p_tenant_id uuid, p_user_id uuid, p_id uuid) returns boolean
language plpgsql
as $$
declare
    v_is_there boolean;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    delete from email_drafts d where d.id = p_id and d.tenant_id = p_tenant_id and d.user_id = p_user_id;
    v_is_there := found;
    if v_is_there then
        perform use_uploads(p_tenant_id, p_user_id, p_id, '{}');
    end if;
    return v_is_there;
end
$$;

-- Goes past the policies: over all tenants. Deletes at most `p_limit` rows, and returns how many.
create function purge_idempotency_keys(p_limit integer) returns integer
language plpgsql security definer
set search_path = ''
as $$
declare
    v_count integer;
begin
    delete from public.email_idempotency_keys k
    where (k.tenant_id, k.user_id, k.key_hash) in (
        select old.tenant_id, old.user_id, old.key_hash from public.email_idempotency_keys old
        where old.created_at <= (select public.epoch_ms() - public.idempotency_keys_last())
        order by old.created_at
        limit p_limit
        for update skip locked
    );
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- At most `p_limit` uploads that nothing has used for a day and an hour, and nothing can use any more: their objects are
-- to be deleted, and then they.
create function uploads_to_purge(p_limit integer)
returns table (tenant_id uuid, user_id uuid, id uuid)
language sql stable security definer
set search_path = ''
as $$
    select u.tenant_id, u.user_id, u.id from public.email_uploads u
    where u.unused_since <= (select public.epoch_ms() - public.unused_uploads_last() - 3600000)
    order by u.unused_since
    limit p_limit
$$;

create function purge_uploads(p_ids uuid[]) returns integer
language plpgsql security definer
set search_path = ''
as $$
declare
    v_count integer;
begin
    delete from public.email_uploads u
    where u.id = any (p_ids)
        and u.unused_since <= (select public.epoch_ms() - public.unused_uploads_last() - 3600000);
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

grant select (id, tenant_id, user_id, unused_since), delete on email_uploads to email_service_janitor;
create policy email_uploads_janitor on email_uploads to email_service_janitor using (true);
-- To lock a row takes the right to change something of it.
grant select (tenant_id, user_id, key_hash, created_at), update (created_at), delete on email_idempotency_keys
    to email_service_janitor;
create policy email_idempotency_keys_janitor on email_idempotency_keys to email_service_janitor using (true) with check (true);

reset role;
-- As in V2 and V5.
grant email_service_janitor to current_user;
grant create on schema public to email_service_janitor;
alter function purge_idempotency_keys(integer) owner to email_service_janitor;
alter function uploads_to_purge(integer) owner to email_service_janitor;
alter function purge_uploads(uuid[]) owner to email_service_janitor;
revoke execute on function purge_idempotency_keys(integer), uploads_to_purge(integer), purge_uploads(uuid[]) from public;
grant execute on function purge_idempotency_keys(integer), uploads_to_purge(integer), purge_uploads(uuid[])
    to email_service_scheduler;
revoke create on schema public from email_service_janitor;
revoke email_service_janitor from current_user;
