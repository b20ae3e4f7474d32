-- What a reader asks for: messages by what is in them; and what changes has a number.
set local lock_timeout = '5s';
set local role email_service_owner;

-- A page of a user's messages, newest first, after the place `p_cursor_at`, `p_cursor_id`. Null asks for no filter. The
-- statement is made of the conditions that are asked for: one that may be off is none for an index, and a partial index
-- serves its own condition alone. Nothing is sorted that an index has in order, whatever the planner believes of how many
-- messages a user or a folder has: a few, it thinks, and would read them all. At Gmail the folder of a message is the first
-- of its labels.
--
-- Beside what an index knows one asks for a thread, attachments, and texts, each as regular expressions of which all must match:
-- `p_from` and `p_to` in lists of addresses as they are stored, `p_subject` in the subject; `p_text` in subject and preview, or
-- `p_names` in any address, where that is not the same. It is the page's index that is read on, as far as the page needs.
create function list_messages(
    p_tenant_id uuid, p_user_id uuid, p_limit bigint, p_account_id uuid, p_folder_id uuid, p_role text,
    p_is_read boolean, p_is_flagged boolean, p_after bigint, p_before bigint, p_cursor_at bigint, p_cursor_id uuid,
    p_thread_id uuid, p_has_attachments boolean, p_from text[], p_to text[], p_subject text[], p_text text[], p_names text[]
)
returns setof email_messages
language plpgsql rows 50
set enable_sort = off
set enable_incremental_sort = off
set enable_bitmapscan = off
set jit = off -- The sort that is left counts as dear, and would be compiled.
as $$
declare
    v_is_after_cursor constant boolean := p_cursor_id is not null and (p_before is null or p_cursor_at < p_before);
    v_flags constant text := concat_ws(' and ',
        '%1$s.tenant_id = $1 and %1$s.user_id = $2',
        case p_is_read when true then '%1$s.is_read' when false then 'not %1$s.is_read' end,
        case p_is_flagged when true then '%1$s.is_flagged' when false then 'not %1$s.is_flagged' end
    );
    -- What no index has is asked of each message on the way.
    v_rest constant text := concat(
        case when p_thread_id is not null then ' and m.thread_id = $10' end,
        case p_has_attachments when true then ' and m.has_attachments' when false then ' and not m.has_attachments' end,
        case when p_from is not null then ' and m.from_list ~ all ($11 collate "C")' end,
        case when p_to is not null then ' and concat(m.to_list, m.cc_list, m.bcc_list) ~ all ($12 collate "C")' end,
        case when p_subject is not null then ' and m.subject ~ all ($13 collate "C")' end,
        case
            -- At once costs a quarter less. What stands between them is in no text that is looked for.
            when p_text is not null and p_names is null then ' and concat_ws(
                e''\x01'', m.subject, m.preview, m.from_list, m.to_list, m.cc_list, m.bcc_list
            ) ~ all ($14 collate "C")'
            when p_text is not null then ' and (
                concat_ws(e''\x01'', m.subject, m.preview) ~ all ($14 collate "C")
                or concat(m.from_list, m.to_list, m.cc_list, m.bcc_list) ~ all ($15 collate "C")
            )'
        end
    );
    v_bounds constant text := concat_ws(' and ',
        -- A range of folders that is one: so only an index that begins with the folder has this order, and not that of all
        -- the user's messages.
        case when v_is_after_cursor then '(%1$s.folder_id, %1$s.received_at, %2$s) < (f.id, $7, $8)'
            when p_before is not null then '(%1$s.folder_id, %1$s.received_at) < (f.id, $6)'
            else '%1$s.folder_id <= f.id' end,
        case when p_after is not null then '(%1$s.folder_id, %1$s.received_at) >= (f.id, $5)'
            else '%1$s.folder_id >= f.id' end
    ) || ' order by %1$s.folder_id desc, %1$s.received_at desc, %2$s desc limit $3';
    v_has_labels boolean;
    v_ids uuid[];
    v_labels uuid[];
    v_statement text;
    v_message email_messages;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    v_has_labels := exists (
        select from email_folders f where f.tenant_id = p_tenant_id and f.user_id = p_user_id and f.is_label
    );
    if p_account_id is null and p_folder_id is null and p_role is null
        and p_is_read is distinct from false and p_is_flagged is distinct from true
    then
        -- Mail of a deleted account is here until it is purged.
        v_ids := array(
            select a.id from email_accounts a
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        );
        v_statement := concat_ws(' and ',
            'select m.* from email_messages m where ' || format(v_flags, 'm') || ' and m.account_id = any ($4)',
            case when v_is_after_cursor then '(m.received_at, m.id) < ($7, $8)'
                when p_before is not null then 'm.received_at < $6' end,
            case when p_after is not null then 'm.received_at >= $5' end
        ) || v_rest;
    else
        v_ids := array(
            select f.id from email_accounts a join email_folders f on f.account_id = a.id
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                and f.tenant_id = p_tenant_id and f.user_id = p_user_id
                and (p_account_id is null or a.id = p_account_id)
                and (p_folder_id is null or f.id = p_folder_id)
                and (p_role is null or f.role = p_role)
        );
        -- From each folder no more than the page needs.
        v_statement := 'select m.* from unnest($4) as f (id) cross join lateral (select * from email_messages m where '
            || format(v_flags, 'm') || v_rest || ' and ' || format(v_bounds, 'm', 'm.id') || ') m';
        if v_has_labels and (p_folder_id is not null or p_role is not null) then
            -- Who asks for all folders finds labelled messages where they lie.
            v_labels := array(
                select f.id from email_folders f
                where f.id = any (v_ids) and f.tenant_id = p_tenant_id and f.user_id = p_user_id and f.is_label
            );
            v_statement := 'select m.* from (' || v_statement || ' union all
                select m.* from unnest($9) as f (id) cross join lateral (
                    select m.* from email_labels l join email_messages m on m.id = l.message_id
                    where m.tenant_id = $1 and m.user_id = $2 and '
                || format(v_flags, 'l') || v_rest || ' and ' || format(v_bounds, 'l', 'l.message_id') || ') m) m';
        end if;
    end if;
    v_statement := v_statement || ' order by m.received_at desc, m.id desc limit $3';
    if not v_has_labels then
        return query execute v_statement
            using p_tenant_id, p_user_id, p_limit, v_ids, p_after, p_before, p_cursor_at, p_cursor_id,
                v_labels, p_thread_id, p_from, p_to, p_subject, p_text, p_names;
        return;
    end if;
    for v_message in execute v_statement
        using p_tenant_id, p_user_id, p_limit, v_ids, p_after, p_before, p_cursor_at, p_cursor_id, v_labels,
            p_thread_id, p_from, p_to, p_subject, p_text, p_names
    loop
        v_message.folder_id := coalesce((
            select l.folder_id from email_labels l join email_folders f on f.id = l.folder_id
            where l.message_id = v_message.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
                and f.tenant_id = p_tenant_id and f.user_id = p_user_id
            order by coalesce(array_position('{inbox,sent,drafts}'::text[], f.role), 4), l.folder_id
            limit 1
        ), v_message.folder_id);
        return next v_message;
    end loop;
end
$$;

-- Whoever changes what a list shows of a message, and does not number it, has it numbered here. Those who change many at
-- once take their numbers at once.
create function number_message() returns trigger
language plpgsql
as $$
begin
    new.changed_number := next_numbers(new.tenant_id, new.user_id, 1);
    return new;
end
$$;
create trigger email_messages_update before update on email_messages for each row
when (
    new.changed_number = old.changed_number
    and (
        old.folder_id, old.thread_id, old.received_at, old.sent_at, old.size, old.is_read, old.is_flagged, old.is_answered,
        old.is_draft, old.has_attachments, old.subject, old.from_list, old.to_list, old.cc_list, old.bcc_list,
        old.reply_to_list, old.message_id, old.in_reply_to, old.preview
    ) is distinct from (
        new.folder_id, new.thread_id, new.received_at, new.sent_at, new.size, new.is_read, new.is_flagged, new.is_answered,
        new.is_draft, new.has_attachments, new.subject, new.from_list, new.to_list, new.cc_list, new.bcc_list,
        new.reply_to_list, new.message_id, new.in_reply_to, new.preview
    )
)
execute function number_message();

-- As V7 has it, and the service that an error is of.
create or replace trigger email_accounts_update before update on email_accounts for each row
when (
    (
        old.account_name, old.email_address, old.protocol, old.hostname, old.port, old.encryption, old.username,
        old.is_sync_enabled, old.sync_interval, old.is_enabled, old.smtp_hostname, old.smtp_port, old.smtp_encryption,
        old.smtp_username, old.auth_type, old.provider, old.state, old.last_error_code, old.last_error_message,
        old.last_error_service
    ) is distinct from (
        new.account_name, new.email_address, new.protocol, new.hostname, new.port, new.encryption, new.username,
        new.is_sync_enabled, new.sync_interval, new.is_enabled, new.smtp_hostname, new.smtp_port, new.smtp_encryption,
        new.smtp_username, new.auth_type, new.provider, new.state, new.last_error_code, new.last_error_message,
        new.last_error_service
    )
)
execute function number_account();

reset role;
