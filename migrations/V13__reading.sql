-- Reading one message, for the mail functions' role.
set local lock_timeout = '5s';
set local role email_service_owner;

-- A message of the user's, as list_messages has it.
create function get_message(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns setof email_messages
language plpgsql rows 1
as $$
declare
    v_message email_messages;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select m.* into v_message
    from email_messages m join email_accounts a on a.id = m.account_id
    where m.id = p_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        -- Mail of a deleted account is here until it is purged.
        and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    if not found then
        return;
    end if;
    v_message.folder_id := coalesce((
        select l.folder_id from email_labels l join email_folders f on f.id = l.folder_id
        where l.message_id = v_message.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
            and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        order by coalesce(array_position('{inbox,sent,drafts}'::text[], f.role), 4), l.folder_id
        limit 1
    ), v_message.folder_id);
    return next v_message;
end
$$;

-- Takes note of what only the whole message tells: its first words, and whether it has attachments.
create function note_opened(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_preview text, p_has_attachments boolean)
returns void
language plpgsql
as $$
declare
    v_number bigint;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    if exists (
        select from email_messages m
        where m.id = p_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            and (m.preview, m.has_attachments) is distinct from (p_preview, p_has_attachments)
    ) then
        -- Before the message, as whoever changes many: two who lock both in another order would wait for each other.
        v_number := next_numbers(p_tenant_id, p_user_id, 1);
        update email_messages m set preview = p_preview, has_attachments = p_has_attachments, changed_number = v_number
        where m.id = p_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    end if;
end
$$;

reset role;
