"""Makes the stacks in moto's CloudFormation, as far as that goes: JSON for templates.rs.

Reads the expanded templates from standard input. A resource of a kind that moto does not know is left out, and who
refers to it gets a stand-in; the answer lists these kinds.
"""

import json
import re
import sys

import boto3
from moto import mock_aws
from moto.cloudformation import parsing

REGION = "us-east-1"
ACCOUNT = "123456789012"

# Kinds that moto has and cannot make as these templates want them: it looks for the alias that it does not know, and
# for the version of an engine that it does not know.
NOT_REALLY = {
    "AWS::CloudFormation::CustomResource",
    "AWS::CloudFormation::Stack",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Lambda::Permission",
    "AWS::RDS::DBInstance",
}

EXISTING = {
    "VpcId": "vpc-0123456789abcdef0",
    "SubnetIds": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    "SecurityGroupIds": "sg-0123456789abcdef0",
    "MailSubnetIds": "subnet-0123456789abcdef2",
    "MailSecurityGroupIds": "sg-0123456789abcdef1",
    "NetworkSecurityGroupIds": "sg-0123456789abcdef2",
    "ServiceSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:service",
    "MailSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:mail",
    "SchedulerSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:scheduler",
    "ReaderSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:reader",
    "NetworkSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:network",
    "ProvidersSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:providers",
    "OwnerSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:owner",
    # moto leaves a statement that a condition takes away in its list, as an empty one.
    "SecretKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "DatabaseHost": "database.example.com",
}
STAGES = {
    "dev": {},
    "staging": {"NatGateways": "one"},
    "prod": {"NatGateways": "each", "DatabaseInsights": "true", "AlarmEmail": "operations@example.com"},
    "existing": EXISTING,
}


def stand_in(name):
    return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}"


def without(value, gone):
    """The value without references to what is gone, and without what moto cannot work out."""
    if isinstance(value, list):
        return [without(item, gone) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(function, argument)] = value.items()
        name = argument[0] if isinstance(argument, list) and argument else argument
        if function in ("Ref", "Fn::GetAtt") and str(name).split(".")[0] in gone:
            return stand_in(str(name).split(".")[0])
        if function == "Fn::Select" and "Fn::Cidr" in str(argument):
            return f"10.42.{argument[0]}.0/24"
        if function == "Fn::Sub":
            text = re.sub(r"\$\{(\w+)(\.[\w.]+)?\}", lambda m: stand_in(m[1]) if m[1] in gone else m[0], name)
            return {function: text if isinstance(argument, str) else [text, without(argument[1], gone)]}
    return {key: without(item, gone) for key, item in value.items()}


def known_to_moto(template):
    kinds = parsing.get_model_map()
    gone = {id for id, it in template["Resources"].items() if it["Type"] not in kinds or it["Type"] in NOT_REALLY}
    unknown = {template["Resources"][id]["Type"] for id in gone}
    resources = {id: without(it, gone) for id, it in template["Resources"].items() if id not in gone}
    for resource in resources.values():
        waits = resource.pop("DependsOn", [])
        waits = [id for id in ([waits] if isinstance(waits, str) else waits) if id not in gone]
        if waits:
            resource["DependsOn"] = waits
    template = {key: value for key, value in template.items() if key not in ("Transform", "Rules")}
    return {**template, "Resources": resources, "Outputs": without(template.get("Outputs", {}), gone)}, unknown


def make(client, name, template, parameters):
    pairs = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    client.create_stack(StackName=name, TemplateBody=json.dumps(template), Parameters=pairs)
    return client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]


def main():
    expanded = {file: known_to_moto(template) for file, template in json.load(sys.stdin).items()}
    stacks = {}
    for stage, parameters in STAGES.items():
        common = {"Stage": "dev" if stage == "existing" else stage}
        with mock_aws():
            s3 = boto3.client("s3", REGION)
            s3.create_bucket(Bucket="bucket")
            s3.put_object(Bucket="bucket", Key="key", Body=b"")
            client = boto3.client("cloudformation", REGION)
            bootstrap = {**common, "GitHubRepository": "owner/repository"}
            functions = {**common, "DataStack": "data", "RotatePasswords": str(stage != "existing").lower()}
            stacks[f"{stage}, bootstrap"] = make(client, "bootstrap", expanded["bootstrap.yaml"][0], bootstrap)
            stacks[f"{stage}, data"] = make(client, "data", expanded["data.yaml"][0], {**common, **parameters})
            stacks[f"{stage}, functions"] = make(client, "functions", expanded["template.yaml"][0], functions)
    unknown = sorted(set().union(*(kinds for _, kinds in expanded.values())))
    json.dump({"unknown": unknown, "stacks": stacks}, sys.stdout)


main()
