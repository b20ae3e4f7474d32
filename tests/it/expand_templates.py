"""The templates as CloudFormation gets them, and what its handlers call: JSON for templates.rs. With `--into FOLDER`, the
templates alone, in files there, for those who check templates.

Runs in the SAM CLI's environment, which has the transform, and with the linter CloudFormation's own schemas.
"""

import json
import logging
import os
import sys

import boto3
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

REGION = "us-east-1"


def expand(path):
    with open(path) as file:
        template = json.loads(json.dumps(yaml_parse(file.read())))
    if template.get("Transform") != "AWS::Serverless-2016-10-31":
        return template
    # As after an upload.
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::CloudFormation::Stack":
            resource["Properties"]["TemplateURL"] = "https://bucket.s3.amazonaws.com/key"
    translator = Translator({}, Parser(), boto_session=boto3.session.Session(region_name=REGION))
    return translator.translate(template, {"Stage": "prod"})


def permissions(kind):
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(region=REGION, resource_type=kind).schema
    return sorted({action for handler in schema.get("handlers", {}).values() for action in handler.get("permissions", [])})


os.environ["AWS_DEFAULT_REGION"] = REGION
# The transform warns of switches that only AWS has.
logging.disable(logging.WARNING)
folder = sys.argv[2] if sys.argv[1] == "--into" else None
paths = sys.argv[3:] if folder else sys.argv[1:]
for path in paths:
    # `sam deploy` reads every template so before anything else, also one without its transform.
    SamLocalStackProvider.get_stacks(path)
stacks = {os.path.basename(path): expand(path) for path in paths}
if folder:
    os.makedirs(folder, exist_ok=True)
    for name, stack in stacks.items():
        with open(os.path.join(folder, os.path.splitext(name)[0] + ".json"), "w") as file:
            json.dump(stack, file, indent=2)
    sys.exit()
kinds = {resource["Type"] for stack in stacks.values() for resource in stack["Resources"].values()}
json.dump({"stacks": stacks, "permissions": {kind: permissions(kind) for kind in sorted(kinds)}}, sys.stdout)
